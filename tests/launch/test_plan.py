"""What the launchers ask of `dmphn plan` is what it takes: its parser, its compiler if here."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from dmphn_jax.commands import plan as command
from dmphn_jax.planning import machines
from tests.support.stand_ins import ROOT, StandIns

FLAT, CORES = (1, 4, 8, 16, 32, 64, 128, 256), (8, 16, 32, 64, 128, 256, 512, 1024)
CHIPS = {
    **{f"{kind}-{n}": n for kind in ("v6e", "v5litepod", "v5e") for n in FLAT},
    **{f"{kind}-{n}": n // 2 for kind in ("v4", "v5p") for n in CORES},  # named by their cores
    **{"h100-80gb-8": 8, "h100-mega-80gb-8": 8, "h200-141gb-8": 8},
}
TRAIN = ["--name=job", "--config=configs/stack4.py", "--config.batch_size=64"]
GOOGLE = ["train", "--project=p", "--zone=z", "--data=/d", "--workdir=/w"]
SCRIPTS = {
    "cloud_tpu.sh": [*GOOGLE, "--accelerator=v6e-16"],
    "gke_xpk.sh": [*GOOGLE, "--cluster=c", "--image=i", "--accelerator=h100-80gb-8", "--nodes=2"],
    "slurm.sbatch": ["--accelerator=h200-141gb-8", "--nodes=4"],
    "hosts.sh": ["train", "--hosts=a b c d", "--accelerator=h100-80gb-8"],
}


def devices(*types: str) -> list[str]:
    """What common.sh makes of types of accelerators."""
    script = 'source launch/common.sh; for type in "$@"; do echo "$(devices "$type")"; done'
    done = subprocess.run(
        ["bash", "-euc", script, "devices", *types],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()


def test_every_accelerator_is_a_machine_of_the_planner_s():
    for type, name in zip(CHIPS, devices(*CHIPS), strict=True):
        machine = machines.parse(name)
        assert machine.chips == CHIPS[type], type
        if machine.chip.platform == "tpu":
            assert machine.topology in machines.SLICES[machine.chip.name], type


def test_another_accelerator_has_no_plan():
    assert devices("v6e-3", "v2-8", "a100-40gb-8", "v5p") == ["", "", "", ""]


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_argument_is_one_of_the_planner_s(tmp_path, script):
    if subprocess.run(["git", "-C", ROOT, "rev-parse", "HEAD"], capture_output=True).returncode:
        pytest.skip("no git checkout")
    done = StandIns(tmp_path).run(script, *SCRIPTS[script], *TRAIN, "--dry-run")
    assert done.returncode == 0, done.stderr
    words = shlex.split(done.stdout[done.stdout.index("dmphn plan") :].splitlines()[0])[2:]
    overrides = [word for word in words if word.startswith("--config.")]
    args = command.parser().parse_args([word for word in words if word not in overrides])
    request = command._request(args, machines.parse(args.devices), overrides)
    assert request.config == "configs/stack4.py"
    assert request.overrides == ("--config.batch_size=64",)
    nodes = int(re.search(r"--nodes=(\d+)|$", " ".join(SCRIPTS[script]))[1] or 1)
    nodes *= 4 if script == "hosts.sh" else 1
    chips = CHIPS[re.search(r"--accelerator=(\S+)", " ".join(SCRIPTS[script]))[1]]
    assert machines.parse(request.machine).chips == chips * nodes


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        ([], "no plan: --accelerator is not given"),
        (["--accelerator=a100-40gb-8"], "no plan: --accelerator a100-40gb-8 is none that"),
    ],
)
def test_no_plan_is_said(tmp_path, flags, line):
    done = StandIns(tmp_path).run("slurm.sbatch", *TRAIN, *flags, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert line in done.stderr
    assert "dmphn plan" not in done.stdout
    assert "sbatch --job-name job" in done.stdout


def test_the_real_table_comes_before_anything_is_asked_for(tmp_path):
    library = Path(os.environ.get("TPU_LIBRARY_PATH") or ROOT / ".libtpu/libtpu/libtpu.so")
    if not library.is_file() and not (ROOT / ".venv-plan/bin/python").exists():
        pytest.skip("no libtpu: make plan brings it")
    cloud = StandIns(tmp_path, "gcloud")
    cloud.reply("describe", 1, error="ERROR: PERMISSION_DENIED\n", times=0)
    flags = ["--accelerator=v5litepod-4", "--config=configs/dmphn.py:1", "--config.model.width=2"]
    flags += ["--config.crop_size=16", "--config.batch_size=4", "--config.data.feed=host"]
    named = {"TPU_LIBRARY_PATH": str(library)} if library.is_file() else {}
    done = subprocess.run(
        ["bash", ROOT / "launch/cloud_tpu.sh", *GOOGLE, "--name=job", *flags],
        env=cloud.env(**named),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=500,  # a compilation
    )
    assert done.returncode == 2  # gcloud does not answer
    assert "machine         v5e:2x2: 4 x TPU v5e" in done.stdout
    assert "Nothing was executed" in done.stdout
    assert done.stderr.index("PERMISSION_DENIED") > 0
