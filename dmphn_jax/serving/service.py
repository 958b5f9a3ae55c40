"""One server's parts: what computes, what waits, what is counted, where files lie."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any

from dmphn_jax.errors import UserError
from dmphn_jax.inference.buckets import Size
from dmphn_jax.inference.deblurrer import Deblurrer
from dmphn_jax.inference.ensembles import ShiftEnsemble
from dmphn_jax.serving.access import Access
from dmphn_jax.serving.engine import ENSEMBLES, Engine
from dmphn_jax.serving.films import PYAV, Films
from dmphn_jax.serving.limits import Limits
from dmphn_jax.serving.metrics import Metrics
from dmphn_jax.serving.pictures import Done, Pictures
from dmphn_jax.serving.places import Places

_FIRST = (
    (256, 256),
)  # computed at the start: the weights go to the device, and it is known to work


class Service:
    """The parts of a server, made once; `close` ends them.

    Attributes:
      name: of the model, for people.
      ensembles: of `ENSEMBLES`, those that the model has.
      folder: private; what comes in and goes out lies there for as long as it is needed.
    """

    def __init__(
        self,
        deblurrer: Deblurrer,
        *,
        name: str,
        limits: Limits | None = None,
        access: Access | None = None,
        sizes: Sequence[Size] = _FIRST,
    ) -> None:
        """Takes the network and begins to compile for pictures of some (height, width)."""
        self.name = name
        self.limits, self.access = limits or Limits(), access or Access()
        self.folder = Path(tempfile.mkdtemp(prefix="dmphn-serve-"))
        self.engine = Engine(deblurrer)
        self.ensembles = ENSEMBLES if _has_patches(deblurrer) else ENSEMBLES[:2]
        self.places = Places(self.limits.queue)
        self.pictures = Pictures(self.engine, self.limits.pixels, self._count)
        self.films = Films(self.engine, self.limits, lambda frames: self.metrics.frames.inc(frames))
        self.metrics = Metrics(lambda: self.places.taken, lambda: len(self.films))
        self.warming_up = self.engine.warm_up(sizes)
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def state(self) -> str:
        """`starting`, `ready` or `stopping`."""
        if self.places.closed:
            return "stopping"
        return "ready" if self.engine.ready.is_set() else "starting"

    @property
    def takes_films(self) -> bool:
        """Whether films are taken at all."""
        return self.limits.films > 0 and PYAV

    def in_background(self, work: Coroutine[Any, Any, None]) -> None:
        """Runs a coroutine beside the requests."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def stop(self) -> None:
        """Lets nobody in, drops what waits and films; what is computed goes on to its end."""
        self.places.closed = True
        self.pictures.stop()
        self.films.stop()

    def close(self) -> None:
        """Ends everything and removes all files."""
        self.stop()
        for part in (self.pictures, self.films, self.engine):
            part.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _count(self, done: Done) -> None:
        self.places.took(done.seconds)
        self.metrics.pictures.inc()
        self.metrics.pixels.inc(done.size[0] * done.size[1])
        self.metrics.picture_seconds.observe(done.seconds)


def _has_patches(deblurrer: Deblurrer) -> bool:
    try:
        ShiftEnsemble(deblurrer, deblurrer.config)
    except UserError:
        return False
    return True
