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


class EventFile:
    """A new event file in a folder; every method raises OSError where it cannot be written."""

    def __init__(self, folder: Path, *, resumed: int = 0) -> None:
        """Begins the file; TensorBoard forgets what earlier files hold after step `resumed`."""
        folder.mkdir(parents=True, exist_ok=True)
        self._file = EventsWriter(str(folder / "events"))
        if resumed:
            start = SessionLog(status=SessionLog.START)
            self._file.write_event(Event(step=resumed + 1, session_log=start))

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
        self._file.write_event(Event(wall_time=time.time(), step=step, summary=value))
