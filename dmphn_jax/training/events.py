"""Events for TensorBoard, written by tensorboardX's parts.

Not by its SummaryWriter, which writes in a thread: that thread ends at the first write that fails
(a disk that is full for a moment), and a few events later the run waits for it for ever.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog

LARGEST = 1_000_000  # bytes after which a file is ended: a store takes files whole, every time


class EventFiles:
    """New event files in a folder, one after the other.

    An ended file does not change any more. Every method raises OSError where it cannot write.
    """

    def __init__(self, folder: Path, *, resumed: int = 0) -> None:
        """Begins a file; TensorBoard forgets what earlier ones hold after step `resumed`."""
        folder.mkdir(parents=True, exist_ok=True)
        self._prefix = str(folder / "events")
        self._number = 0
        self._begin()
        if resumed:
            self._write(Event(step=resumed + 1, session_log=SessionLog(status=SessionLog.START)))

    def scalar(self, name: str, value: float, step: int) -> None:
        """Adds a number."""
        self._add(summary.scalar(name, value), step)

    def image(self, name: str, image: np.ndarray, step: int) -> None:
        """Adds a picture, uint8 (H, W, 3)."""
        self._add(summary.image(name, image, dataformats="HWC"), step)

    def flush(self) -> None:
        """Writes what was added to the disk."""
        self._file.flush()

    def close(self) -> None:
        """Writes the rest and closes the file."""
        self._file.close()

    def _add(self, value: Any, step: int) -> None:
        if self._size >= LARGEST:
            self._file.close()
            self._number += 1
            self._begin()
        self._write(Event(wall_time=time.time(), step=step, summary=value))

    def _begin(self) -> None:
        # A name has the second: the number keeps files of one second apart, and in order.
        suffix = f".{self._number:06d}" if self._number else ""
        self._file = EventsWriter(self._prefix, suffix)
        self._size = 0

    def _write(self, event: Event) -> None:
        self._file.write_event(event)
        self._size += event.ByteSize() + 16  # its length and two sums
