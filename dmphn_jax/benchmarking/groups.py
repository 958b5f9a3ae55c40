"""Groups of contenders that do the same work: planned, checked, timed against each other."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from dmphn_jax.benchmarking import agreement, counts, jax_cases
from dmphn_jax.benchmarking.ceilings import ceiling
from dmphn_jax.benchmarking.contender import Contender
from dmphn_jax.benchmarking.peers import VARIANTS
from dmphn_jax.benchmarking.timing import Stolen, measure, queue_for
from dmphn_jax.errors import UserError, out_of_memory
from dmphn_jax.evaluation.paper import label_of
from dmphn_jax.models import ModelConfig, init_params, operations, zoo


@dataclasses.dataclass(frozen=True)
class Group:
    """One piece of work that several contenders do.

    Attributes:
      mode: "inference" or "training".
      config: the model.
      size: (H, W) of the images, or of the training crops.
      batch: images per call.
      stages: run the first so many only; None: all.
    """

    mode: str
    config: ModelConfig
    size: tuple[int, int]
    batch: int
    stages: int | None = None

    @property
    def label(self) -> str:
        """The model's name for people."""
        return label_of(self.config, self.stages)

    def __str__(self) -> str:
        height, width = self.size
        return f"{self.mode} of {self.label}, batch {self.batch} of {height}x{width}"

    def check(self) -> None:
        """Raises UserError for sizes and stages that the model does not take."""
        name, (height, width) = zoo.name_of(self.config), self.size
        rows, columns = self.config.multiple
        if height % rows or width % columns:
            raise UserError(f"--sizes {height}x{width}: {name} takes multiples of {rows}x{columns}")
        if self.mode == "training" and height != width:
            raise UserError(f"--sizes {height}x{width}: training crops are square")
        if self.stages and self.stages > self.config.stages:
            raise UserError(f"--stages {self.stages}: {name} has {self.config.stages}")


@dataclasses.dataclass(frozen=True)
class Settings:
    """How groups are measured.

    Attributes:
      device: JAX's.
      precisions: of the JAX contenders.
      layout: of their convolutions, as `Deblurrer` takes it.
      torch_device: for the twin in PyTorch; None where it does not compete.
      variants: of the peers that compete, names of `peers.VARIANTS`.
      warmup, rounds, seconds: of `timing.measure`.
      tolerance: of `agreement.check`.
      seed: of weights and images.
    """

    device: jax.Device
    precisions: tuple[str, ...] = ("float32",)
    layout: str = "auto"
    torch_device: Any = None
    variants: tuple[str, ...] = ()
    warmup: int = 2
    rounds: int = 20
    seconds: float = 60.0
    tolerance: float = agreement.TOLERANCE
    seed: int = 0

    @property
    def queue(self) -> int:
        """Pieces of work queued to measure the throughput; 1 on a CPU: none."""
        return queue_for(self.device)


def contenders(group: Group, settings: Settings) -> list[Contender]:
    """Makes and compiles a group's contenders; a float32 JAX one comes first if there is one."""
    return (_training if group.mode == "training" else _inference)(group, settings)


def _inference(group: Group, settings: Settings) -> list[Contender]:
    config, stages = group.config, group.stages
    params = init_params(config, settings.seed)
    (images,) = _images(group, settings, 1)
    made = [
        jax_cases.inference(
            config,
            params,
            images,
            stages=stages,
            precision=precision,
            device=settings.device,
            layout=settings.layout,
        )
        for precision in _float32_first(settings.precisions)
    ]
    for variant in settings.variants:
        if VARIANTS[variant].library == "torch":
            from dmphn_jax.benchmarking import torch_cases

            device = settings.torch_device
            made.append(
                torch_cases.inference(
                    config, params, images, stages=stages, variant=variant, device=device
                )
            )
        else:
            from dmphn_jax.benchmarking import onnx_cases

            made.append(
                onnx_cases.inference(config, params, images, stages=stages, variant=variant)
            )
    return made


def _training(group: Group, settings: Settings) -> list[Contender]:
    config = counts.cut(group.config, group.stages)
    params = init_params(config, settings.seed)
    blurry, sharp = _images(group, settings, 2)
    made = [
        jax_cases.training(
            config,
            params,
            blurry,
            sharp,
            precision=precision,
            device=settings.device,
            layout=settings.layout,
            seed=settings.seed,
        )
        for precision in _float32_first(settings.precisions)
    ]
    for variant in settings.variants:
        if VARIANTS[variant].library == "torch":  # no other trains
            from dmphn_jax.benchmarking import torch_cases

            device = settings.torch_device
            made.append(
                torch_cases.training(config, params, blurry, sharp, variant=variant, device=device)
            )
    return made


def _images(group: Group, settings: Settings, sets: int) -> list[np.ndarray]:
    """Returns random batches of the group's size, (B, H, W, 3) uint8."""
    rng = np.random.default_rng(settings.seed)
    shape = (group.batch, *group.size, 3)
    return [rng.integers(0, 256, shape, dtype=np.uint8) for _ in range(sets)]


def _float32_first(precisions: Sequence[str]) -> list[str]:
    return sorted(precisions, key=lambda name: name != "float32")


def run(
    group: Group, settings: Settings, ceilings: Sequence[dict[str, Any]] = ()
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Checks and times a group.

    Args:
      group: the work.
      settings: how it is measured.
      ceilings: of the device; rows get their shares of them.

    Returns:
      A row per contender, and the comparisons of what they compute, as plain JSON values.

    Raises UserError if it does not fit into memory, DisagreementError if the contenders do not
    compute the same.
    """
    group.check()
    return guarded(lambda: _run(group, settings, ceilings), group)


def _run(
    group: Group, settings: Settings, ceilings: Sequence[dict[str, Any]]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    about = {
        "mode": group.mode,
        "model": zoo.name_of(group.config),
        "label": group.label,
        "stages": group.stages or group.config.stages,
        "model_width": group.config.width,
        "height": group.size[0],
        "width": group.size[1],
        "batch": group.batch,
    }
    made = contenders(group, settings)
    compared = agreement.check(made, settings.tolerance)
    stolen = Stolen()
    times = measure(
        [contender.case for contender in made],
        warmup=settings.warmup,
        rounds=settings.rounds,
        seconds=settings.seconds,
        queue=settings.queue,
    )
    about["stolen_share"] = stolen.share()
    cut = counts.cut(group.config, group.stages)
    flops = group.batch * operations(cut, *group.size, training=group.mode == "training")
    rows = []
    for contender, taken in zip(made, times, strict=True):
        seconds = taken.throughput_ms / 1000
        counted = contender.counts.get("bytes_accessed")
        rows.append(
            {
                **about,
                "contender": contender.name,
                "library": contender.library,
                "variant": contender.variant,
                "precision": contender.precision,
                **taken.to_dict(),
                "images_per_second": group.batch / seconds,
                "compile_s": contender.compile_s,
                "memory": contender.memory(),
                "flops": flops,
                "flops_per_second": flops / seconds,
                "share_of_matmul": _share(
                    flops / seconds, ceiling(ceilings, "matmul", contender.precision)
                ),
                "xla": contender.counts or None,
                "bytes_per_second": counted and counted / seconds,
                "share_of_copy": _share(counted and counted / seconds, ceiling(ceilings, "copy")),
            }
        )
    return rows, [{**about, **row} for row in compared]


def _share(rate: float | None, most: float | None) -> float | None:
    return rate / most if rate and most else None


def guarded(work: Callable[[], Any], what: Any) -> Any:
    """Returns `work()`; raises UserError about `what` if it does not fit into memory."""
    try:
        return work()
    except Exception as error:
        if out_of_memory(error):
            raise UserError(f"{what}: does not fit into the device's memory") from None
        raise
