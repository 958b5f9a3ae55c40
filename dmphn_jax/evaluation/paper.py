"""What the paper reports of a model, to stand beside its row."""

from __future__ import annotations

import dataclasses

from dmphn_jax.data.splits import VIDEO_DEBLURRING_TEST
from dmphn_jax.models import ModelConfig, zoo

BLURRY = "blurry input"

# Table 3: PSNR (dB) on VideoDeblurring's test videos #1..#10 and the mean as printed, by models
# trained on GoPro. (The stacks' ten values average 0.08 less than the mean the paper prints.)
TABLE_3: dict[str, tuple[float, ...]] = {
    BLURRY: (24.14, 30.52, 28.38, 27.31, 22.60, 29.31, 27.74, 23.86, 30.59, 26.98, 27.14),
    "dmphn_1_2_4": (29.89, 33.35, 31.82, 31.32, 26.35, 32.49, 30.51, 27.11, 34.77, 30.02, 30.76),
    "stack2": (30.19, 33.98, 32.16, 31.82, 26.57, 32.94, 30.73, 27.45, 35.11, 30.41, 31.22),
    "stack3": (30.48, 34.31, 32.24, 32.09, 26.77, 33.08, 30.84, 27.51, 35.24, 30.57, 31.39),
    "stack4": (30.48, 34.41, 32.25, 32.10, 26.87, 33.12, 30.86, 27.55, 35.25, 30.60, 31.43),
}


@dataclasses.dataclass(frozen=True)
class PaperFigures:
    """The paper's figures of a model.

    Attributes:
      table_3: PSNR (dB) on VideoDeblurring's ten test videos and their mean; empty if not there.
      label: the paper's name of the model; the fields below are known with it only.
      psnr, ssim_matlab: on GoPro's 1111 test pairs.
      runtime_ms: of a 1280x720 image on a P100, timed without waiting for the GPU.
      tables: those that hold the figures, such as "1, 4".
      trained_apart: they are of a stack of that depth trained by itself, not of this one's stages.
    """

    table_3: tuple[float, ...] = ()
    label: str = ""
    psnr: float | None = None
    ssim_matlab: float | None = None
    runtime_ms: float | None = None
    tables: str = ""
    trained_apart: bool = False


def figures_of(config: ModelConfig, stages: int | None = None) -> PaperFigures | None:
    """Returns the paper's figures of a model's first `stages` stages; None if it has none."""
    part = dataclasses.replace(config, stages=stages or config.stages)
    entry = zoo.paper_entry(part)
    if entry is None:
        return None
    return PaperFigures(
        table_3=TABLE_3.get(entry.name, ()),
        label=entry.label,
        psnr=entry.psnr,
        ssim_matlab=entry.ssim,
        runtime_ms=entry.runtime_ms,
        tables=entry.tables,
        trained_apart=part != config,
    )


def label_of(
    config: ModelConfig,
    stages: int | None = None,
    *,
    ensemble: bool = False,
    precision: str = "float32",
) -> str:
    """Returns a model's name for people: the paper's where it has one, with what differs."""
    entry = zoo.paper_entry(config)
    parts = [entry.label if entry else zoo.name_of(config)]
    if config.width != 32:
        parts.append(f"width {config.width}")
    if config.global_skip:
        parts.append("global skip")
    if stages and stages != config.stages:
        parts.append(f"first {stages} of {config.stages} stages")
    if ensemble:
        parts.append("x8 ensemble")
    if precision != "float32":
        parts.append(precision)
    return ", ".join(parts)


def video_number(video: str) -> int | None:
    """Returns which of Table 3's #1..#10 a test video of VideoDeblurring is; None if none.

    The order is the one the dataset's author published. The paper names no videos, but its row of
    input PSNRs follows that order, and so should the blurry input's row of a report.
    """
    order = VIDEO_DEBLURRING_TEST
    return order.index(video) + 1 if video in order else None
