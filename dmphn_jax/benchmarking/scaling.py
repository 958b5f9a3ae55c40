"""How the cost grows with pixels, batch, levels and stages: sweeps, straight lines, a figure."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from dmphn_jax.benchmarking.groups import Group, Settings, contenders, guarded
from dmphn_jax.benchmarking.timing import Times, measure
from dmphn_jax.errors import UserError
from dmphn_jax.models import ModelConfig, zoo

HIERARCHIES = ("1", "1-2", "1-2-4", "1-2-4-8")
STEPS = (1, 2, 3, 4)
_AXES = {
    "pixels": "megapixels per image",
    "batch": "images per batch",
    "levels": "levels of the hierarchy",
    "stages": "stages of the stack",
}


@dataclasses.dataclass(frozen=True)
class Line:
    """y = intercept + slope * x by least squares, and the R^2 of the fit."""

    slope: float
    intercept: float
    r2: float


def fit(x: Sequence[float], y: Sequence[float]) -> Line:
    """Returns the line of least squares through the points; needs two different x."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    dx, dy = x - x.mean(), y - y.mean()
    slope = float(dx @ dy / (dx @ dx))
    left = dy - slope * dx
    total = float(dy @ dy)
    r2 = 1.0 if total == 0 else 1 - float(left @ left) / total
    return Line(slope, float(y.mean() - slope * x.mean()), r2)


def sweeps(config: ModelConfig, size: tuple[int, int]) -> dict[str, list[tuple[float, Group]]]:
    """Returns what is varied -> (x, work) in rising order of x; all else stays as it is.

    Args:
      config: the model; its hierarchy and its stages are varied too.
      size: (H, W) of the images.

    Raises UserError for DMSN, which has no patches, and for a size that a model of the sweeps
    does not take.
    """
    if config.family == "dmsn":
        raise UserError(f"--scaling: {zoo.name_of(config)} has scales, not levels of patches")

    def group(batch: int = 1, size: tuple[int, int] = size, **fields: Any) -> Group:
        try:
            varied = dataclasses.replace(config, **fields)
        except ValueError as error:
            raise UserError(f"--scaling: {zoo.name_of(config)}: {error}") from None
        made = Group("inference", varied, size, batch)
        made.check()
        return made

    rows = config.multiple[0]
    heights = sorted({size[0] * k // STEPS[-1] // rows * rows for k in STEPS} - {0})
    if len(heights) < 3:
        raise UserError(f"--scaling: {size[0]}x{size[1]} is too low to be cut into quarters")
    return {
        "pixels": [(h * size[1] / 1e6, group(size=(h, size[1]))) for h in heights],
        "batch": [(k, group(batch=k)) for k in STEPS],
        "levels": [(len(h.split("-")), group(hierarchy=h)) for h in HIERARCHIES],
        "stages": [(k, group(stages=k)) for k in STEPS],
    }


def run(name: str, points: Sequence[tuple[float, Group]], settings: Settings) -> dict[str, Any]:
    """Times one sweep, all its points in turn; returns it with its line as plain JSON values.

    Only JAX, in the first of the settings' precisions.

    Raises UserError if the points do not fit into memory together.
    """
    alone = dataclasses.replace(
        settings, precisions=settings.precisions[:1], torch_device=None, variants=()
    )

    def timed() -> list[Times]:
        return measure(
            [contenders(group, alone)[0].case for _, group in points],
            warmup=settings.warmup,
            rounds=settings.rounds,
            seconds=settings.seconds,
        )

    times = guarded(timed, f"--scaling: the sweep of {name}")
    x = [x for x, _ in points]
    y = [t.quantile(0.5) for t in times]
    return {
        "sweep": name,
        "x_label": _AXES[name],
        "precision": alone.precisions[0],
        "points": [
            {"x": a, "work": str(group), **t.to_dict()}
            for (a, group), t in zip(points, times, strict=True)
        ],
        **dataclasses.asdict(fit(x, y)),
    }


def plot(found: Sequence[dict[str, Any]], title: str) -> bytes:
    """Returns the figure as PNG: a panel per sweep, its points and its line."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 7), layout="constrained")
    panels = figure.subplots(2, 2, squeeze=False).flat
    for axes, sweep in zip(panels, found, strict=False):
        x = [point["x"] for point in sweep["points"]]
        y = [point["p50_ms"] for point in sweep["points"]]
        ends = np.array([0, max(x)])
        axes.plot(ends, sweep["intercept"] + sweep["slope"] * ends, c="0.6", label="least squares")
        axes.scatter(x, y, c="C0", zorder=2, label="median")
        axes.set_title(f"R² = {sweep['r2']:.4f}", fontsize=10)
        axes.set_xlabel(sweep["x_label"])
        axes.set_ylabel("ms per call")
        axes.set_xticks([0, *x], [f"{tick:.2g}" for tick in (0, *x)])
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
        axes.grid(True, alpha=0.25)
    figure.suptitle(title, fontsize=11)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=150)
    return content.getvalue()
