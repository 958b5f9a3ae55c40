"""What the time of a program on a GPU goes into: kernels by kind, from JAX's profiler.

    python tools/device_profile.py --precisions float32,bfloat16 --layouts cudnn,xla
    python tools/device_profile.py --mode training --batch 8 --json profile.json

Weights and images are random, as those of `dmphn benchmark`. The times of the kernels are the
device's own; beside them stands the time of a call by the clock, when several are queued.
"""

from __future__ import annotations

import argparse
import collections
import json
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax

from dmphn_jax.benchmarking.groups import Group, Settings, contenders
from dmphn_jax.benchmarking.timing import measure
from dmphn_jax.commands import arguments as parsers
from dmphn_jax.models import zoo

_CALLS = 5  # that are profiled
# Kinds of kernels by their names, the first that fits.
_KINDS = {
    "convolution": re.compile("xmma|implicit|wgrad|dgrad|fprop|conv(?!ert)|cutlass|gemm"),
    "layout": re.compile("nchw|nhwc|transpose", re.IGNORECASE),
    "copy": re.compile("memcpy|memset|copy", re.IGNORECASE),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Profiles every program asked for and prints a table of each."""
    options = _parser().parse_args(arguments)
    device = jax.devices()[0]
    if device.platform != "gpu":
        sys.exit(f"the first device is a {device.platform}: this reads the profile of a GPU")
    print(f"{device.device_kind}, jax {jax.__version__}, {options.model}, {options.mode}")
    found = []
    for layout in options.layouts.split(","):
        for precision in options.precisions.split(","):
            report = _profile(options, layout, precision, device)
            found.append(report)
            _show(report, options.top)
    if options.json:
        Path(options.json).write_text(json.dumps(found, indent=1) + "\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="dmphn_1_2_4")
    parser.add_argument("--mode", choices=("inference", "training"), default="inference")
    parser.add_argument("--size", type=parsers.size, help="HxW (720x1280; training 256x256)")
    parser.add_argument("--batch", type=parsers.count, help="(1; training 8)")
    parser.add_argument("--precisions", default="bfloat16")
    parser.add_argument("--layouts", default="auto")
    parser.add_argument("--top", type=int, default=12, help="kernels to name (12)")
    parser.add_argument("--json", help="write everything there")
    return parser


def _profile(options: Any, layout: str, precision: str, device: jax.Device) -> dict[str, Any]:
    training = options.mode == "training"
    batch = options.batch or (8 if training else 1)
    size = options.size or ((256, 256) if training else (720, 1280))
    group = Group(options.mode, zoo.get(options.model), size, batch)
    (contender,) = contenders(group, Settings(device, (precision,), layout))
    (times,) = measure([contender.case], warmup=3, rounds=1, queue=20)
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(_CALLS):
                contender.case.run()
        kernels = list(_kernels(Path(folder)))
    return {
        "model": options.model,
        "mode": options.mode,
        "size": "{}x{}".format(*size),
        "batch": batch,
        "layout": layout,
        "precision": precision,
        "device": device.device_kind,
        "call_ms": times.throughput_ms,
        "compile_s": contender.compile_s,
        "memory": contender.memory(),
        "kernels": _summed(kernels),
    }


def _kernels(folder: Path) -> Iterator[tuple[str, str, float]]:
    """Yields (name of the kernel, of XLA's operation, milliseconds) of all that the device ran."""
    for file in folder.rglob("*.xplane.pb"):
        for plane in jax.profiler.ProfileData.from_file(str(file)).planes:
            if not plane.name.startswith("/device:GPU"):
                continue
            for line in plane.lines:
                if not line.name.startswith("Stream"):
                    continue
                for event in line.events:
                    stats = dict(event.stats)
                    operation = str(stats.get("hlo_op", stats.get("tf_op", "")))
                    yield event.name, operation, event.duration_ns / 1e6


def _summed(kernels: Sequence[tuple[str, str, float]]) -> list[dict[str, Any]]:
    """Returns a dict per kernel's name: `kind`, `ms` and `count` of a call, longest first."""
    total: dict[str, float] = collections.Counter()
    count: dict[str, int] = collections.Counter()
    operations: dict[str, set[str]] = collections.defaultdict(set)
    for name, operation, milliseconds in kernels:
        total[name] += milliseconds
        count[name] += 1
        operations[name].add(operation)
    return [
        {
            "name": name,
            "kind": _kind(name),
            "ms": total[name] / _CALLS,
            "count": count[name] / _CALLS,
            "operations": sorted(operations[name])[:4],
        }
        for name in sorted(total, key=total.__getitem__, reverse=True)
    ]


def _kind(name: str) -> str:
    return next((kind for kind, pattern in _KINDS.items() if pattern.search(name)), "other")


def _show(report: dict[str, Any], top: int) -> None:
    kernels = report["kernels"]
    by_kind: dict[str, float] = collections.Counter()
    for kernel in kernels:
        by_kind[kernel["kind"]] += kernel["ms"]
    parts = ", ".join(f"{kind} {ms:.2f}" for kind, ms in sorted(by_kind.items()))
    print(
        f"\n{report['layout']}, {report['precision']}, {report['batch']} of {report['size']}: "
        f"{report['call_ms']:.2f} ms a call, kernels {sum(by_kind.values()):.2f} ({parts}); "
        f"compiled in {report['compile_s']:.1f} s\n"
    )
    for kernel in kernels[:top]:
        operation = next(iter(kernel["operations"]), "")
        print(
            f"{kernel['ms']:8.3f} ms {kernel['count']:6.1f}x  {kernel['kind']:11} "
            f"{kernel['name'][:100]}  {operation[:40]}"
        )


if __name__ == "__main__":
    main()
