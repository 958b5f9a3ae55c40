"""`dmphn status`: where a run stands, from its work folder."""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

from dmphn_jax import storage
from dmphn_jax.training import status

DESCRIPTION = """\
Tell where a training run stands: step, rate, last checkpoint, health. Reads WORKDIR/status.json,
which the run renews at every report. Exit status 0: starting or at work, stopped and saved, or at
its end; 1: failed, killed, or silent for too long; 2: no run there."""


def main(argv: list[str]) -> int:
    """Prints the run's state."""
    parser = argparse.ArgumentParser(
        prog="dmphn status",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "workdir", metavar="WORKDIR", help="folder of the run, or gs://BUCKET/FOLDER"
    )
    parser.add_argument("--json", action="store_true", help="print the fields, `health` as of now")
    args = parser.parse_args(argv)
    fields = status.read(storage.place(args.workdir))
    print(json.dumps(fields, indent=1) if args.json else text(fields))
    return 0 if fields["health"] == "ok" else 1


def text(fields: dict[str, Any]) -> str:
    """Returns the lines a person reads."""
    from dmphn_jax.training import speed
    from dmphn_jax.training.run_log import duration

    now = time.time()
    lines = [f"{fields['state']}: step {fields['step']:,}{_of(fields)}"]
    if fields.get("images_per_second"):
        left = f", {duration(fields['seconds_left'])} left" if fields["state"] == "training" else ""
        rate = f"rate: {fields['images_per_second']:.1f} images/s"
        lines.append(f"{rate}{speed.told(fields)}{left}")
    if "loss" in fields:
        lines.append(f"loss: {fields['loss']:.5f}, PSNR {fields['psnr']:.2f} dB")
    if fields["num_steps"]:  # before that a run that goes on has not looked at its checkpoints
        lines.append(f"checkpoint: {fields['checkpoint'] or 'none yet'}")
    lines.append(
        f"process: {fields['process']} on {fields['host']}, {fields['devices']}; "
        f"last word {duration(now - fields['updated'])} ago"
    )
    return "\n".join([*lines, f"health: {fields['health']}"])


def _of(fields: dict[str, Any]) -> str:
    """Returns the run's length and the share that is done; "" before its data are known."""
    num_steps = fields["num_steps"]
    return f" of {num_steps:,} ({fields['step'] / num_steps:.1%})" if num_steps else ""
