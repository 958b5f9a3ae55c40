"""Scoring a method on pairs: the core of `dmphn evaluate` and of the evaluation in training."""

from __future__ import annotations

import contextlib
import dataclasses
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

import jax
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from dmphn_jax.data.base import Pair, PairSource
from dmphn_jax.errors import UserError, out_of_memory
from dmphn_jax.evaluation import metrics
from dmphn_jax.evaluation.methods import Method, Outputs
from dmphn_jax.evaluation.scores import EvaluationResult, ImageScores
from dmphn_jax.runtime import cores, data_mesh
from dmphn_jax.threads import map_ahead


def score_pairs(
    method: Method,
    source: PairSource,
    *,
    indices: Iterable[int] | None = None,
    batch_size: int | None = None,
    devices: Sequence[jax.Device] | None = None,
    on_image: Callable[[ImageScores, np.ndarray], None] | None = None,
    on_scores: Callable[[ImageScores], None] | None = None,
    on_failure: Callable[[int, str], None] | None = None,
    take: Callable[[int], bool] = lambda index: True,
) -> EvaluationResult:
    """Scores a method on pairs of a source, batch by batch.

    Pairs are read ahead by threads. Images of one size go through the method together; a batch
    that is not full is filled up with copies, so that a size compiles once.

    Args:
      method: a `Deblurrer` (of a checkpoint, or of a training run's params and config), or
        whatever has its `submit`. Its images are scored on the devices that hold them.
      source: the pairs.
      indices: those to score; all by default. Read as pairs are.
      batch_size: images per batch; by default one per device.
      devices: as many images make a batch by default, and those on the host are shared among
        them to be scored; all local ones by default.
      on_image: called with the scores and the deblurred image, uint8 (H, W, 3), of every pair.
        Without it the images stay on the device.
      on_scores: called after it, with the scores alone.
      on_failure: called with its index and one line for every pair that cannot be scored.
      take: asked when a pair has been read, before it is scored or has failed: False leaves it out.

    Raises UserError if a batch does not fit into memory or its outputs are not finite.
    """
    devices = list(devices or jax.local_devices())
    batch_size = batch_size or len(devices)
    indices = range(len(source)) if indices is None else indices
    images: list[ImageScores] = []
    failures: list[str] = []
    clock = _Clock()
    for batch in _batches(source, indices, batch_size, take):
        if isinstance(batch, _Failure):
            failures.append(batch.line)
            if on_failure:
                on_failure(batch.index, batch.line)
            continue
        blurry = np.stack([pair.blurry for _, pair in batch])
        sharp = np.stack([pair.sharp for _, pair in batch])
        outputs = _deblurred(method, _filled(blurry, batch_size), batch[0][1].name)
        scores = _score(outputs.images, sharp, devices)
        pixels = outputs.result() if on_image else None
        for i, (index, pair) in enumerate(batch):
            height, width = pair.sharp.shape[:2]
            of = {name: float(values[i]) for name, values in scores.items()}
            images.append(ImageScores(index, pair.name, height, width, of))
            if on_image and pixels is not None:
                on_image(images[-1], pixels[i])
            if on_scores:
                on_scores(images[-1])
        clock.tick(blurry.shape)
    return EvaluationResult(sorted(images, key=lambda image: image.index), failures, clock.rate)


class _Clock:
    """Tells how fast pairs go by; a size's first batch, which compiles, is left out.

    Attributes:
      rate: pairs per second; None as long as no size came twice.
    """

    def __init__(self) -> None:
        self.rate: float | None = None
        self._pairs, self._seconds = 0, 0.0
        self._sizes: set[tuple[int, ...]] = set()
        self._begun = time.perf_counter()

    def tick(self, shape: tuple[int, ...]) -> None:
        """Counts a batch of images of a shape (B, H, W, 3) at the moment it is scored."""
        begun, self._begun = self._begun, time.perf_counter()
        count, *size = shape
        if tuple(size) in self._sizes:
            self._pairs += count
            self._seconds += self._begun - begun
            self.rate = self._pairs / self._seconds
        self._sizes.add(tuple(size))


def measure_runtime(
    method: Method, size: tuple[int, int], *, runs: int = 20, budget_s: float = 10.0
) -> float:
    """Returns the median milliseconds of one image of (height, width), on this machine.

    From uint8 on the host to uint8 on the host: the clock stops when the result has arrived.
    One run before it compiles and warms up. At most `runs` runs, fewer if they take longer than
    `budget_s` together. Raises UserError if the image does not fit into memory.
    """
    image = np.random.default_rng(0).integers(0, 256, (1, *size, 3), dtype=np.uint8)
    _deblurred(method, image, "timing").result()
    times: list[float] = []
    while len(times) < runs and sum(times) < budget_s:
        begun = time.perf_counter()
        method.submit(image).result()
        times.append(time.perf_counter() - begun)
    return 1000 * statistics.median(times)


def _filled(images: np.ndarray, count: int) -> np.ndarray:
    missing = count - len(images)
    return np.concatenate([images, np.repeat(images[-1:], missing, axis=0)]) if missing else images


def _score(
    images: np.ndarray | jax.Array, sharp: np.ndarray, devices: Sequence[jax.Device]
) -> dict[str, np.ndarray]:
    """Returns every metric of a batch, computed where its images lie.

    Those on the host are shared among the devices. `sharp` may have fewer images: the rest are
    copies that fill a batch.
    """
    if isinstance(images, np.ndarray):
        count = -(-len(images) // len(devices)) * len(devices)
        shared = NamedSharding(data_mesh(devices), P("data"))
        placed: jax.Array = jax.device_put(_filled(images, count), shared)
    else:
        placed = images
    beside = jax.device_put(_filled(sharp, len(placed)), placed.sharding)
    return jax.device_get(metrics.compiled_metrics(placed, beside))


def _deblurred(method: Method, images: np.ndarray, name: str) -> Outputs:
    try:
        outputs = method.submit(images)
        outputs.check()
        return outputs
    except UserError as error:
        raise UserError(f"{name}: {error}") from None
    except jax.errors.JaxRuntimeError as error:
        if not out_of_memory(error):
            raise
        B, H, W, _ = images.shape
        raise UserError(
            f"{name}: {B} images of {H} x {W} do not fit into the device's memory; "
            "try --batch-size 1, --precision bfloat16 or fewer --stages"
        ) from None


def _read(source: PairSource, index: int) -> Pair | str:
    """Returns a pair that can be scored, or one line that says why it cannot."""
    try:
        pair = source[index]
    except UserError as error:
        return str(error)
    if pair.blurry.shape != pair.sharp.shape:
        sizes = (f"{x.shape[0]} x {x.shape[1]}" for x in (pair.blurry, pair.sharp))
        return f"{pair.name}: its blurry image is {next(sizes)}, its sharp one {next(sizes)}"
    if min(pair.sharp.shape[:2]) < 11:
        return f"{pair.name}: smaller than the 11 x 11 window of SSIM"
    return pair


@dataclasses.dataclass(frozen=True)
class _Failure:
    """A pair that cannot be scored."""

    index: int
    line: str


def _batches(
    source: PairSource,
    indices: Iterable[int],
    batch_size: int,
    take: Callable[[int], bool] = lambda index: True,
) -> Iterator[list[tuple[int, Pair]] | _Failure]:
    """Yields batches of pairs of one size, and a `_Failure` for each pair that has failed.

    Sizes may alternate: pairs wait for others of their size, but no more than a few batches do.
    """
    threads = min(16, cores())
    waiting: dict[tuple[int, ...], list[tuple[int, Pair]]] = {}
    pairs = map_ahead(
        lambda index: (index, _read(source, index)),
        indices,
        threads=threads,
        ahead=batch_size + threads,
    )
    with contextlib.closing(pairs):
        for index, pair in pairs:
            if not take(index):
                continue
            if isinstance(pair, str):
                yield _Failure(index, pair)
                continue
            group = waiting.setdefault(pair.blurry.shape, [])
            group.append((index, pair))
            if len(group) == batch_size:
                yield waiting.pop(pair.blurry.shape)
            elif sum(map(len, waiting.values())) > 3 * batch_size:
                yield waiting.pop(next(iter(waiting)))  # the size that waits longest
        yield from waiting.values()
