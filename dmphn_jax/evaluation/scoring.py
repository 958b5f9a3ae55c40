"""Scoring a network on pairs: the core of `dmphn evaluate` and of the evaluation in training."""

from __future__ import annotations

import collections
import dataclasses
import os
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from dmphn_jax.data.base import Pair, PairSource
from dmphn_jax.errors import UserError
from dmphn_jax.evaluation import metrics
from dmphn_jax.runtime import data_mesh


class Method(Protocol):
    """What can be scored; `inference.Deblurrer` is one."""

    def batch(self, images: np.ndarray) -> np.ndarray:
        """Deblurs uint8 (B, H, W, 3)."""


class Blurry:
    """The method that does nothing: its scores are the blurry input's."""

    def batch(self, images: np.ndarray) -> np.ndarray:
        """Returns the images as they are."""
        return images


class SelfEnsemble:
    """x8 self-ensemble: the mean over the 8 flips and quarter turns of the image.

    It gains a little PSNR and costs eight passes of the network per image, and one more compiled
    program for the turned size. The passes are averaged at 16 bits and rounded once.
    """

    def __init__(self, method: Method) -> None:
        self.method = method

    def batch(self, images: np.ndarray) -> np.ndarray:
        """Deblurs uint8 (B, H, W, 3)."""
        deep = images.astype(np.uint16) * 257  # 255 becomes 65535: the same image, exactly
        total = np.zeros(images.shape, np.uint32)
        for turns in range(4):
            turned = np.rot90(deep, turns, axes=(1, 2))
            for flip in (slice(None), slice(None, None, -1)):
                output = self.method.batch(np.ascontiguousarray(turned[:, :, flip]))
                total += np.rot90(output[:, :, flip], -turns, axes=(1, 2))
        return ((2 * total + 8 * 257) // (2 * 8 * 257)).astype(np.uint8)


class ImageScores(NamedTuple):
    """The metrics of one image; `name` is `sequence/frame`."""

    index: int
    name: str
    height: int
    width: int
    scores: dict[str, float]

    @property
    def video(self) -> str:
        """The image's sequence, empty where its name has none."""
        return self.name.rpartition("/")[0]


@dataclasses.dataclass
class EvalResult:
    """Scores of a method on a set of pairs.

    Attributes:
      images: in the order of the source.
      failures: one line per pair that could not be scored.
      images_per_second: pairs read, deblurred and scored per second, compilation left out;
        None if no size came twice.
    """

    images: list[ImageScores]
    failures: list[str] = dataclasses.field(default_factory=list)
    images_per_second: float | None = None

    def __len__(self) -> int:
        return len(self.images)

    @property
    def mean(self) -> dict[str, float]:
        """Means over all images: name of the metric -> value; nan where there is no image."""
        return _mean(self.images)

    @property
    def videos(self) -> dict[str, dict[str, float]]:
        """Means of every sequence, in the order of the source."""
        groups: dict[str, list[ImageScores]] = {}
        for image in self.images:
            groups.setdefault(image.video, []).append(image)
        return {video: _mean(images) for video, images in groups.items()}

    @property
    def video_mean(self) -> dict[str, float]:
        """Means over the sequences' means, as Table 3 averages."""
        videos = list(self.videos.values()) or [self.mean]
        return {name: statistics.fmean(video[name] for video in videos) for name in videos[0]}

    @property
    def commonest_size(self) -> tuple[int, int] | None:
        """(height, width) of most images."""
        sizes = collections.Counter((image.height, image.width) for image in self.images)
        return sizes.most_common(1)[0][0] if sizes else None


def evaluate_params(
    method: Method | Callable[[np.ndarray], np.ndarray],
    source: PairSource,
    *,
    indices: Iterable[int] | None = None,
    batch_size: int | None = None,
    devices: Sequence[jax.Device] | None = None,
    on_image: Callable[[ImageScores, np.ndarray], None] | None = None,
    on_failure: Callable[[str], None] | None = None,
) -> EvalResult:
    """Scores a method on pairs of a source, batch by batch.

    Pairs are read ahead by threads. Images of one size go through the method together; a batch
    that is not full is filled up with copies, so that a size compiles once.

    Args:
      method: a `Deblurrer` (of a checkpoint, or of a training run's params and config), or any
        function of uint8 (B, H, W, 3).
      source: the pairs.
      indices: those to score; all by default. Processes of one run may take every n-th each.
      batch_size: images per batch; by default one per device.
      devices: those that share the metrics of a batch; all local ones by default.
      on_image: called with the scores and the deblurred image, uint8 (H, W, 3), of every pair.
      on_failure: called with one line for every pair that cannot be read or scored.

    Raises UserError if a batch does not fit into memory or its outputs are not finite.
    """
    run = getattr(method, "batch", method)
    devices = list(devices or jax.local_devices())
    batch_size = batch_size or len(devices)
    indices = list(range(len(source)) if indices is None else indices)
    result = EvalResult([])
    timed_images, timed_seconds, sizes = 0, 0.0, set()
    begun = time.perf_counter()
    for batch in _batches(source, indices, batch_size):
        if isinstance(batch, str):
            result.failures.append(batch)
            if on_failure:
                on_failure(batch)
            continue
        blurry = np.stack([pair.blurry for _, pair in batch])
        sharp = np.stack([pair.sharp for _, pair in batch])
        outputs = _guarded(run, _filled(blurry, batch_size), batch[0][1].name)[: len(batch)]
        scores = _score(outputs, sharp, batch_size, devices)
        for i, (index, pair) in enumerate(batch):
            image = ImageScores(
                index, pair.name, *pair.sharp.shape[:2], {k: float(v[i]) for k, v in scores.items()}
            )
            result.images.append(image)
            if on_image:
                on_image(image, outputs[i])
        now = time.perf_counter()
        if blurry.shape[1:] in sizes:
            timed_images += len(batch)
            timed_seconds += now - begun
        sizes.add(blurry.shape[1:])
        begun = now
    result.images.sort(key=lambda image: image.index)
    if timed_images:
        result.images_per_second = timed_images / timed_seconds
    return result


def measure_runtime(
    method: Method, size: tuple[int, int], *, runs: int = 20, budget_s: float = 10.0
) -> float:
    """Returns the median milliseconds of one image of (height, width), on this machine.

    From uint8 on the host to uint8 on the host: the clock stops when the result has arrived.
    One run before it compiles and warms up. At most `runs` runs, fewer if they take longer than
    `budget_s` together.
    """
    image = np.random.default_rng(0).integers(0, 256, (1, *size, 3), dtype=np.uint8)
    jax.block_until_ready(_guarded(method.batch, image, "timing"))
    times: list[float] = []
    while len(times) < runs and sum(times) < budget_s:
        begun = time.perf_counter()
        jax.block_until_ready(method.batch(image))
        times.append(time.perf_counter() - begun)
    return 1000 * statistics.median(times)


def _mean(images: Sequence[ImageScores]) -> dict[str, float]:
    if not images:
        return dict.fromkeys(metrics.METRICS, float("nan"))
    return {k: statistics.fmean(image.scores[k] for image in images) for k in metrics.METRICS}


def _filled(images: np.ndarray, count: int) -> np.ndarray:
    missing = count - len(images)
    return np.concatenate([images, np.repeat(images[-1:], missing, axis=0)]) if missing else images


_metrics = jax.jit(metrics.all_metrics)


def _score(
    images: np.ndarray, sharp: np.ndarray, batch_size: int, devices: Sequence[jax.Device]
) -> dict[str, np.ndarray]:
    """Returns every metric of a batch, sharded over the devices."""
    count = -(-batch_size // len(devices)) * len(devices)
    sharding = NamedSharding(data_mesh(devices), P("data"))
    placed = jax.device_put((_filled(images, count), _filled(sharp, count)), sharding)
    return jax.device_get(_metrics(*placed))


def _guarded(run: Callable[[np.ndarray], Any], images: np.ndarray, name: str) -> Any:
    try:
        return np.asarray(run(images))
    except UserError as error:
        raise UserError(f"{name}: {error}") from None
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
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


def _batches(
    source: PairSource, indices: Sequence[int], batch_size: int
) -> Iterator[list[tuple[int, Pair]] | str]:
    """Yields batches of pairs of one size, and a line for each pair that has failed.

    Sizes may alternate: pairs wait for others of their size, but no more than a few batches do.
    """
    threads = min(16, os.cpu_count() or 1)
    waiting: dict[tuple[int, ...], list[tuple[int, Pair]]] = {}
    queue: collections.deque[tuple[int, Future]] = collections.deque()
    todo = iter(indices)
    with ThreadPoolExecutor(threads) as pool:
        try:
            while True:
                while len(queue) < batch_size + threads:
                    index = next(todo, None)
                    if index is None:
                        break
                    queue.append((index, pool.submit(_read, source, index)))
                if not queue:
                    break
                index, future = queue.popleft()
                pair = future.result()
                if isinstance(pair, str):
                    yield pair
                    continue
                group = waiting.setdefault(pair.blurry.shape, [])
                group.append((index, pair))
                if len(group) == batch_size:
                    yield waiting.pop(pair.blurry.shape)
                elif sum(map(len, waiting.values())) > 3 * batch_size:
                    yield waiting.pop(next(iter(waiting)))  # the size that waits longest
            yield from waiting.values()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
