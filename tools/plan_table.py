"""Prints the standard table of docs/plan.md: what the compilers say of the main programs.

    python tools/plan_table.py [--rows TPU|GPU|PODS] [--layout NAME] [--json FOLDER]

Every row is one `dmphn plan`, which must be installed with the machine's compiler: `make plan` and
`make plan-gpu` see to that. A row takes from half a minute to several; with `--json` a run that was
interrupted goes on where it stopped (an empty folder begins anew).
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from dmphn_jax.planning.report import by_kind
from dmphn_jax.planning.request import Exchange

_CROPS = ["--precision", "bfloat16", "--config.data.feed=host"]


def _frame(model: str) -> list[str]:
    return ["--model", model, "--size", "720x1280", "--precision", "bfloat16"]


def _step(config: str, batch: str) -> list[str]:
    return ["--config", config, "--batch", batch, *_CROPS]


# Title, device, arguments. A slice of four chips: what is per chip is the same on a larger one.
ROWS: dict[str, list[tuple[str, str, list[str]]]] = {
    "TPU": [
        ("DMPHN(1-2-4), a 720p frame on each chip", "v5e:2x2", _frame("dmphn_1_2_4")),
        ("Stack(4), a 720p frame on each chip", "v5e:2x2", _frame("stack4")),
        ("DMPHN(1-2-4), step, 8 crops a chip", "v5e:2x2", _step("configs/dmphn.py:1-2-4", "32")),
        ("Stack(4), step, 2 crops a chip", "v5e:2x2", _step("configs/stack4.py", "8")),
        ("Stack(4), step, 16 crops a chip", "v5e:2x2", _step("configs/stack4.py", "64")),
        ("DMPHN(1-2-4), a 720p frame on each chip", "v6e:2x2", _frame("dmphn_1_2_4")),
        ("DMPHN(1-2-4), step, 8 crops a chip", "v6e:2x2", _step("configs/dmphn.py:1-2-4", "32")),
    ],
    "PODS": [
        ("Stack(4), step, 1 crop a chip", "v5e:16x16", _step("configs/stack4.py", "256")),
        ("Stack(4), step, 1 crop a chip", "v6e:16x16", _step("configs/stack4.py", "256")),
    ],
    "GPU": [
        ("DMPHN(1-2-4), a 720p frame", "h100:1", _frame("dmphn_1_2_4")),
        ("Stack(4), a 720p frame", "h100:1", _frame("stack4")),
        ("DMPHN(1-2-4), step, 8 crops", "h100:1", _step("configs/dmphn.py:1-2-4", "8")),
        ("Stack(4), step, 8 crops", "h100:1", _step("configs/stack4.py", "8")),
        ("Stack(4), step, 8 crops a GPU", "h100:8", _step("configs/stack4.py", "64")),
    ],
}  # fmt: skip


def main() -> int:
    """Prints the table, a row as soon as it is there; returns 1 if a row could not be made."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", choices=sorted(ROWS), default="TPU")
    parser.add_argument("--layout", help="of the convolutions (the platform's own)")
    parser.add_argument(
        "--json", type=Path, metavar="FOLDER", help="keep, and find, the plans there"
    )
    args = parser.parse_args()
    gpu = args.rows == "GPU"
    other = ["written by all else / by convolutions"] if gpu else ["Mcycles", "estimate"]
    print(f"Rows {args.rows}. Nothing was executed: estimates and bounds of the compilers.\n")
    header = ["program", "on", "layout", *other, "arithmetic bound", "memory bound", "temporaries"]
    header += ["of the chip's memory", "moves", "collectives", "compiled in"]
    print(f"| {' | '.join(header)} |\n|{'---|' * 3}{'--:|' * (len(header) - 3)}", flush=True)
    failed = 0
    for title, devices, arguments in ROWS[args.rows]:
        layout = ["--layout", args.layout] if args.layout else []
        plan = _plan(["--devices", devices, *arguments, *layout], args.json)
        if plan is None:
            failed += 1
            continue
        print(f"| {' | '.join([title, devices, *_cells(plan, gpu)])} |", flush=True)
    return 1 if failed else 0


def _plan(arguments: list[str], folder: Path | None) -> dict[str, Any] | None:
    named = re.sub(r"[^\w.]+", "-", " ".join(arguments)).strip("-")
    kept = folder / f"{named}.json" if folder else None
    if kept and kept.exists():
        return json.loads(kept.read_text())
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "plan.json"
        command = [sys.executable, "-m", "dmphn_jax", "plan", *arguments, "--json", str(path)]
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        if not path.exists():
            print(f"{' '.join(arguments)}: {done.stderr.strip()[-300:]}", file=sys.stderr)
            return None
        text = path.read_text()
    if kept:
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(text)
    return json.loads(text)


def _cells(plan: dict[str, Any], gpu: bool) -> list[str]:
    memory = plan["memory_per_chip"]
    if memory is None:
        empty = [""] * (4 if gpu else 5)  # up to the chip's memory
        needed = f"does not fit ({plan['needed'] / 1e9:.1f} GB)"
        return [plan["layout"], *empty, needed, "", "", ""]
    bounds = plan["bounds_seconds"]
    if gpu:
        other = [f"{plan['other_bytes'] / plan['convolution_bytes']:.0%}"]
    else:
        estimate = plan["estimated_seconds"]
        other = [f"{plan['cycles'] / 1e6:.0f}", f"{1e3 * estimate:.0f} ms" if estimate else "-"]
    exchanges = ", ".join(
        f"{times} {kind}, {size / 1e6:.1f} MB"
        for kind, times, size in by_kind([Exchange(**item) for item in plan["exchanges"]])
    )
    return [
        plan["layout"],
        *other,
        f"{1e3 * bounds['arithmetic']:.1f} ms",
        f"{1e3 * bounds['memory']:.1f} ms",
        f"{memory['temporaries'] / 1e6:,.0f} MB",
        f"{memory['sum'] / memory['limit']:.0%}",
        str(plan["moves"]),
        exchanges or "none",
        f"{plan['seconds']:.0f} s",
    ]


if __name__ == "__main__":
    sys.exit(main())
