"""What docs/operations.md shows of its ways, from photograph to pod, is what the commands print.

The launchers' dry runs: tests/launch/test_dry_runs.py; `dmphn status`: tests/training.
"""

from __future__ import annotations

import dataclasses
import re
import types

import jax
import numpy as np
import pytest

from dmphn_jax import cli
from dmphn_jax.commands import demo, plan
from dmphn_jax.data.resident_feed import ResidentFeed
from dmphn_jax.models import parameter_shapes
from dmphn_jax.planning import machines, report
from dmphn_jax.planning.request import Compiled, Memory
from dmphn_jax.storage.steps import Steps
from dmphn_jax.training import settings, summary
from tests.conftest import ROOT
from tests.support.data_tree import gopro_tree
from tests.support.evaluation import save_tiny
from tests.support.pages import commands
from tests.support.pictures import SHAPE, noise, saved
from tfds_gopro import prepare

PAGE = (ROOT / "docs" / "operations.md").read_text()
PLANS = (ROOT / "docs" / "plan.md").read_text()
BLOCKS = re.findall(r"^```\n(.*?)\n```$", PAGE, re.M | re.S)


def shown(first: str) -> str:
    """The block of the page that begins so."""
    (found,) = (block for block in BLOCKS if block.startswith(first))
    return found


def test_the_demo():
    measured = re.search(r"on (\d+) held-out scenes \(([\d.]+) to ([\d.]+) dB\)", training())
    count, blurry, trained = measured.groups()
    assert shown("40 held-out") == demo.gained(int(count), float(blurry), float(trained))


def training() -> str:
    return (ROOT / "docs" / "training.md").read_text()


def test_preparing_gopro(tmp_path, monkeypatch, capsys):
    gopro_tree(tmp_path / "GOPRO_Large", train=3, test=2)
    monkeypatch.chdir(tmp_path)
    flags = ["--data-dir=data", "--allow-partial", "--quiet"]
    assert prepare.main(["gopro", "--source=GOPRO_Large", *flags]) == 0
    said = capsys.readouterr().out.replace("3 train", "2103 train").replace("2 test", "1111 test")
    assert said.rstrip("\n") == shown("data/gopro")


def test_the_start_of_a_run():
    """With GoPro's 2103 pairs on one H100."""
    config = settings.read("configs/stack4.py", ["--config.compute_dtype=bfloat16"])
    model = settings.model_of(config)
    feed = ResidentFeed.__new__(ResidentFeed)
    feed.steps_per_epoch = 2103 // config.batch_size
    device = types.SimpleNamespace(platform="gpu", device_kind="NVIDIA H100 80GB HBM3")
    run = types.SimpleNamespace(
        **{"config": config, "model": model, "feed": feed},
        mesh=types.SimpleNamespace(size=1, devices=np.array([device], object)),
        num_steps=config.num_epochs * feed.steps_per_epoch,
    )
    said = summary.start(run, parameter_shapes(model), "random, seed 0", 0)
    said = re.sub(r"\n\+---.*model\.txt\n", "\n...\n", said, flags=re.S)
    assert said.replace(f"jax {jax.__version__}", "jax 0.10.2") == shown("devices")


def planned(devices: str, **figures) -> str:
    """What the page's command for these devices prints, where the compiler says so."""
    (words,) = (words[2:] for words in commands(PAGE) if devices in words)
    args = plan.parser().parse_args(words)
    compiled = Compiled(
        batch=args.batch,
        memory=Memory(0, 0, 0, 0, 0, 0, 0, 1),
        precision=args.precision,
        **dict(devices=1, hosts=1, needed=0, exchanges=(), operations=None, moves=0, seconds=0.0),
        **dict(moves_cycles=0, all_moves=0, all_moves_cycles=0, layout="", remat=False),
        **dict(convolution_bytes=0, other_bytes=0),
        **{"model_operations": 0.0, "bytes": 0.0, "cycles": None, **figures},
    )
    machine = machines.parse(devices)
    compiled = dataclasses.replace(compiled, devices=machine.chips)
    made = plan._plan(plan._request(args, machine, []), machine, compiled, args.price_per_chip_hour)
    return report.text(made)


def test_time_and_cost_on_a_gpu():
    row = re.search(r"^\| Stack\(4\), step, 8 crops \| ([\d.]+) ms \| ([\d.]+) ms ", PLANS, re.M)
    arithmetic, memory = (1e-3 * float(value) for value in row.groups())
    chip = machines.parse("h100:1").chip
    work = {
        "model_operations": arithmetic * chip.peak["bfloat16"],
        "bytes": memory * chip.bandwidth,
    }
    assert shown("bounds  ") in planned("h100:1", **work)


def test_time_and_cost_on_a_tpu():
    cycles = re.search(r"v6e:16x16, 256\s+chips [\w\s,]*: (\d+) Mcycles", PLANS)[1]
    assert shown("the run  ") in planned("v6e:4x4", cycles=int(cycles) * 10**6)


@pytest.fixture
def photos(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for name in "abc":
        saved(tmp_path / "photos" / f"{name}.png", noise(*SHAPE, 3))
    return tmp_path


def test_a_photograph(photos, capsys):
    weights = str(save_tiny(photos / "stack4"))
    assert cli.main(["deblur", "photos/a.png", "--checkpoint", weights, "--output", "sharp/"]) == 0
    assert capsys.readouterr().out.rstrip("\n") == shown("deblurred 1")


def test_a_checkpoint_in_a_bucket(photos, bucket, capfd):
    run = bucket.address / "runs" / "stack4"
    own = Steps(run / "checkpoints", own=lambda: None)
    own.send(1050000, save_tiny(photos / "tiny"), None)
    capfd.readouterr()
    assert cli.main(["deblur", "photos/", "--checkpoint", str(run), "--output", "sharp/"]) == 0
    said, errors = capfd.readouterr()
    text = errors + said.rstrip("\n")
    text = text.replace(f"{photos}/staging", "/home/me/.cache/dmphn_jax/storage")
    text = text.replace(bucket.address.bucket, "my-bucket")
    assert re.sub(r"[\d,.]+ kB", "241.0 MB", text) == shown("dmphn: note")
