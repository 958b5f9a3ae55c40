"""What a run says at its start, at an evaluation and at its end."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
from clu import parameter_overview
from jax.sharding import Mesh

from dmphn_jax.models import multiply_adds, operations, parameter_count, parameter_name, zoo
from dmphn_jax.storage import Address
from dmphn_jax.training.optimizer import OptimizerOptions

if TYPE_CHECKING:
    from dmphn_jax.training.prepare import Prepared


@dataclasses.dataclass
class _Row:
    name: str
    arrays: int
    size: int


def start(run: Prepared, params: Any, origin: str, step: int) -> str:
    """Returns the lines a run begins with: devices, model table, data, steps, cost.

    Args:
      run: what begins.
      params: its parameters.
      origin: where they come from.
      step: steps already taken.
    """
    config, model, feed = run.config, run.model, run.feed
    crop, batch = config.crop_size, config.batch_size
    forward = multiply_adds(model, crop, crop)
    step_cost = batch * operations(model, crop, crop, training=True) / 2
    entry = zoo.paper_entry(model)
    title = (
        f"{entry.label}; the paper's: {entry.psnr} dB, SSIM {entry.ssim}"
        if entry
        else "not the paper's"
    )
    rate = OptimizerOptions.of(config.optimizer).in_words(feed.steps_per_epoch, run.num_steps)
    return "\n".join(
        [
            f"devices    {_devices(run.mesh)}",
            table(params),
            f"model      {zoo.name_of(model)} ({title}), {parameter_count(model):,} parameters, "
            f"{config.compute_dtype}; weights: {origin}",
            f"data       {config.data.source}: {feed.steps_per_epoch:,} batches of {batch} per "
            f"epoch, {type(feed).__name__}, crops of {crop} x {crop}, augmentation "
            f"{config.augment!r}",
            f"training   steps {step:,} to {run.num_steps:,} "
            f"({run.num_steps / feed.steps_per_epoch:,.1f} epochs), {config.loss.name}, "
            f"{config.optimizer.name} at {rate}",
            f"cost       {forward / 1e9:,.2f} GMAC per crop forward, about "
            f"{step_cost / 1e9:,.1f} GMAC per step; the time follows the first steps",
        ]
    )


def evaluation(step: int, scores: dict[str, float], best: dict[str, Any] | None) -> str:
    """Returns the line about an evaluation; `best` is the one before it."""
    text = (
        f"evaluation at step {step:,}: PSNR {scores['eval_psnr']:.2f} dB "
        f"(blurry {scores['eval_psnr_blurry']:.2f}), SSIM {scores['eval_ssim_matlab']:.4f} MATLAB, "
        f"{scores['eval_ssim_skimage']:.4f} scikit-image"
    )
    if best is None:
        return text
    if scores["eval_psnr"] > best["score"]:
        return f"{text}; the best so far"
    return f"{text}; best {best['score']:.2f} dB at step {best['step']:,}"


def failed_evaluation(step: int, pairs: int) -> str:
    """Returns the line about an evaluation in which none of its pairs could be scored."""
    return f"evaluation at step {step:,}: none of its {pairs:,} pairs could be scored; going on"


def end(
    step: int,
    num_steps: int,
    stopped: str | None,
    checkpoint: Path | Address | None,
    best: dict[str, Any] | None,
    workdir: Path | Address,
) -> str:
    """Returns the lines a run ends with."""
    where = f"checkpoint {checkpoint}" if checkpoint else "no checkpoint"
    if stopped:
        saved = "saved, " if step else ""
        return f"{stopped} at step {step:,}: {saved}{where}; the same command goes on from there"
    text = f"done: step {step:,} of {num_steps:,}; {where}"
    if best:
        text += f"; best {best['score']:.2f} dB at step {best['step']:,}"
    return f"{text}\ncurves: {workdir}/metrics.csv, tensorboard --logdir {workdir}/tensorboard"


def parameters(params: Any) -> str:
    """Returns clu's table of every parameter."""
    return parameter_overview.get_parameter_overview(params, include_stats=False)


def table(params: Any) -> str:
    """Returns clu's table with a row per encoder and decoder."""
    rows: dict[str, _Row] = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
        parts = parameter_name(path).split("/")
        end = next((i for i, p in enumerate(parts) if p in ("encoder", "decoder")), 0)
        row = rows.setdefault("/".join(parts[: end + 1]), _Row("", 0, 0))
        row.name = "/".join(parts[: end + 1])
        row.arrays += 1
        row.size += leaf.size
    body = parameter_overview.make_table(list(rows.values()))
    return f"{body}\n           every array: model.txt"


def _devices(mesh: Mesh) -> str:
    device = mesh.devices.flat[0]
    kind = device.device_kind if device.device_kind != device.platform else device.platform
    processes = jax.process_count()
    text = f"{mesh.size} x {kind}" + (f" of {processes} processes" if processes > 1 else "")
    return f"{text}, jax {jax.__version__}"
