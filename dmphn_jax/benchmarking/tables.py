"""The report of a benchmark: what it was measured on, and its figures as JSON and Markdown."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dmphn_jax import __version__, runtime
from dmphn_jax.files import write_file
from dmphn_jax.tables import markdown_table, without_empty_columns

FORMAT = 2  # 1 had PyTorch's ratios only, in the field `torch`

NOTES = """\
Random images, and random weights as training begins with. Every call is synchronised: the clock
stops when the result is there. The rows of one model, size and batch are competitors: after a
warm-up each round runs every one of them once, in turn. *p50* and *p90* are of single calls.
*images/s* is the batch over the median time of a call{queued}. *stolen* is the share of the busy
processors' time that a virtual machine's host gave to other guests while the group was timed.
*compile s* is tracing and compiling of the JAX program{cached}; what peers compile is not told
apart. *memory MB* is, by the letter beside it: *d* the peak the device reports for this process
so far, *c* what the compiled program needs (arguments, outputs, temporaries), *t* the peak of
PyTorch's allocator.{kept}

*GFLOP* are 10^9 floating-point operations of the convolutions of one call, two per
multiply-accumulate{training}; *TFLOP/s* is that
over the time, and *of product* its share of the highest matrix product of that precision below:
above 100 % where fewer multiplications give the same (on a CPU, by minimal filtering).
*GB* are what XLA's cost analysis of the compiled program counts as read and written by its
operations after fusion, caches not considered and calls into libraries perhaps missing; *of copy*
is the share of the copy below. A cell is empty where a figure is not known.
"""
INFERENCE_NOTES = "Inference is from uint8 on the device to uint8 on the device, for all."
TRAINING_NOTES = """\
A training step is forward pass, backward pass and Adam's update of the same batch. JAX's also cuts
the crops from uint8 frames on the device and computes the training metrics; PyTorch's begins with
float images."""


def report(
    *,
    command: str,
    device: Any,
    settings: dict[str, Any],
    torch_device: Any = None,
    libraries: Sequence[str] = (),
) -> dict[str, Any]:
    """Returns a report without figures, as plain JSON values; rows are added to its lists.

    Args:
      command: the exact command.
      device: JAX's.
      settings: what else tells how it was measured.
      torch_device: PyTorch's, if it competes.
      libraries: of the peers.
    """
    libraries = ["jax", "jaxlib", "flax", "optax", "numpy", *libraries]
    environment = {
        "device": _processor() if device.platform == "cpu" else device.device_kind,
        "platform": device.platform,
        "machine": platform.machine(),
        "cores": runtime.cores(),
        "python": platform.python_version(),
        "libraries": {name: importlib.metadata.version(name) for name in libraries},
    }
    if torch_device is not None:
        import torch

        environment["torch_device"] = str(torch_device)
        environment["torch_threads"] = torch.get_num_threads()
    return {
        "format": FORMAT,
        "version": __version__,
        "date": datetime.date.today().isoformat(),
        "command": command,
        "environment": environment,
        "settings": settings,
        "ceilings": [],
        "agreement": [],
        "rows": [],
        "ratios": [],
        "scaling": [],
    }


def _processor() -> str:
    """Returns the CPU's name; JAX calls every one "cpu"."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "CPU"


def ratios(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns, for one group's rows, every peer's time over every JAX time.

    `ratio` is the median over the rounds of the ratio within a round: the two ran one after the
    other, so what slows the machine for a while slows both. `ratio_best` is that of the minima.
    """
    found = []
    for ours in rows:
        for theirs in rows:
            if ours["library"] == "jax" != theirs["library"]:
                what = ("mode", "model", "label", "stages", "height", "width", "batch")
                found.append(
                    {name: ours[name] for name in what}
                    | {
                        "jax": ours["contender"],
                        "peer": theirs["contender"],
                        "ratio": float(np.median(np.divide(theirs["times_ms"], ours["times_ms"]))),
                        "ratio_best": theirs["min_ms"] / ours["min_ms"],
                    }
                )
    return found


def markdown(made: dict[str, Any]) -> str:
    """Returns a report as Markdown."""
    machine, settings = made["environment"], made["settings"]
    libraries = ", ".join(f"{name} {version}" for name, version in machine["libraries"].items())
    lines = [
        "# Benchmark",
        "",
        f"- device: {machine['device']} ({machine['platform']}), {machine['cores']} cores, "
        f"{machine['machine']}",
        f"- software: dmphn_jax {made['version']}, Python {machine['python']}, {libraries}",
        f"- date: {made['date']}",
        f"- command: `{made['command']}`",
        "",
    ]
    if "torch_device" in machine:
        lines.insert(
            4, f"- PyTorch: on {machine['torch_device']}, {machine['torch_threads']} threads"
        )
    for mode, note in (("inference", INFERENCE_NOTES), ("training", TRAINING_NOTES)):
        if rows := [row for row in made["rows"] if row["mode"] == mode]:
            lines += [f"## {mode.capitalize()}", "", _rows_table(rows), "", note, ""]
    if made["ratios"]:
        lines += ["## The peers' time over JAX's", "", _ratio_table(made["ratios"]), ""]
        lines += [
            "*ratio* is the median over the rounds of the ratio within a round, *of the best* that "
            "of the shortest times; above 1, JAX is faster.",
            "",
        ]
    if made["agreement"]:
        lines += ["## Agreement", "", _agreement_table(made["agreement"]), ""]
        lines += [
            "Checked before the timing: the largest absolute difference from the reference, of "
            "the output image on [-0.5, 0.5] before rounding, or of the first training step's "
            "loss and gradient norm. *scale* is the reference's largest absolute value; the bound "
            "is a part of it.",
            "",
        ]
    if made["ceilings"]:
        lines += ["## Ceilings, measured", "", _ceiling_table(made["ceilings"]), ""]
    if made["scaling"]:
        lines += ["## Cost against pixels, batch, levels and stages", ""]
        lines += [_scaling_table(made["scaling"]), ""]
        lines += [
            f"Around {settings['scaling_base']}; one thing varied at a time. Straight lines "
            "through the medians by least squares.",
            "",
        ]
    notes = NOTES.format(
        queued=(
            f" when {settings['queue']} are queued and awaited together"
            if settings.get("queue", 1) > 1
            else ""
        ),
        kept=" On a CPU the process kept freed memory." if settings.get("keep_memory") else "",
        cached=" (perhaps taken from the cache on disk)" if settings.get("compile_cache") else "",
        training=", three times the forward pass for training",
    )
    return "\n".join([*lines, "## Notes", "", notes])


def write(folder: str | os.PathLike[str], made: dict[str, Any]) -> None:
    """Writes `benchmark.json` and `benchmark.md` into a folder, each whole or not at all."""
    folder = Path(folder)
    text = json.dumps(made, indent=1, allow_nan=False)
    write_file(folder / "benchmark.json", text + "\n")
    write_file(folder / "benchmark.md", markdown(made))


def _rows_table(rows: Sequence[dict[str, Any]]) -> str:
    header = ["model", "size", "batch", "contender", "p50 ms", "p90 ms", "best ms"]
    header += ["images/s", "rounds", "stolen"]
    header += ["compile s", "memory MB", "GFLOP", "TFLOP/s", "of product", "GB", "of copy"]
    cells = []
    for row in rows:
        memory = row["memory"] or {}
        counted = (row["xla"] or {}).get("bytes_accessed")
        cells.append(
            [
                row["label"],
                f"{row['height']}x{row['width']}",
                str(row["batch"]),
                row["contender"],
                _digits(row["p50_ms"]),
                _digits(row["p90_ms"]),
                _digits(row["min_ms"]),
                _digits(row["images_per_second"]),
                str(row["rounds"]),
                _percent(row["stolen_share"] or None),
                _digits(row["compile_s"]),
                f"{memory['bytes'] / 1e6:,.0f} {memory['source'][0]}" if memory else "",
                _digits(row["flops"] / 1e9),
                _digits(row["flops_per_second"] / 1e12),
                _percent(row["share_of_matmul"]),
                _digits(counted and counted / 1e9),
                _percent(row["share_of_copy"]),
            ]
        )
    return markdown_table(*without_empty_columns(header, cells))


def _ratio_table(rows: Sequence[dict[str, Any]]) -> str:
    return markdown_table(
        ["work", "peer", "JAX", "ratio", "of the best"],
        [
            [_work(row), row["peer"], row["jax"]]
            + [f"{row[name]:.2f}" for name in ("ratio", "ratio_best")]
            for row in rows
        ],
    )


def _agreement_table(rows: Sequence[dict[str, Any]]) -> str:
    return markdown_table(
        ["work", "contender", "of the", "difference", "scale", "bound"],
        [
            [_work(row), row["contender"], row["what"]]
            + [f"{row[name]:.2g}" for name in ("difference", "scale", "bound")]
            for row in rows
        ],
    )


def _ceiling_table(rows: Sequence[dict[str, Any]]) -> str:
    cells = []
    for row in rows:
        if row["kind"] == "matmul":
            what = f"{row['precision']} product of {row['size']}x{row['size']}"
            rate = f"{_digits(row['per_second'] / 1e12)} TFLOP/s"
        else:
            what = f"copy, {row['bytes'] / 1e6:,.0f} MB read and written"
            rate = f"{_digits(row['per_second'] / 1e9)} GB/s"
        cells.append([what, row["by"], rate])
    return markdown_table(["ceiling", "by", "rate"], cells)


def _scaling_table(found: Sequence[dict[str, Any]]) -> str:
    cells = []
    for sweep in found:
        points = ", ".join(f"{p['x']:.3g}: {_digits(p['p50_ms'])}" for p in sweep["points"])
        cells.append(
            [
                sweep["x_label"],
                points,
                _digits(sweep["slope"]),
                _digits(sweep["intercept"]),
                f"{sweep['r2']:.4f}",
            ]
        )
    return markdown_table(["varied", "p50 ms", "ms per unit", "ms at 0", "R²"], cells)


def _work(row: dict[str, Any]) -> str:
    size = f"{row['height']}x{row['width']}"
    return f"{row['mode']}, {row['label']}, {size}, batch {row['batch']}"


def _digits(value: float | None) -> str:
    """Three digits that count, without an exponent."""
    if value is None:
        return ""
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    text = f"{float(f'{value:.3g}'):.9f}".rstrip("0").rstrip(".")
    return text or "0"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.0f} %"
