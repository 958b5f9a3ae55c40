"""A run's own evaluation, `--mode evaluate` and `dmphn evaluate` judge alike."""

from __future__ import annotations

import csv

import pytest

from dmphn_jax import main
from dmphn_jax.commands import evaluate
from dmphn_jax.evaluation import report
from dmphn_jax.evaluation.scores import METRIC_NAMES
from dmphn_jax.training.experiments import start_from
from dmphn_jax.training.prepare import pairs_of
from tests.support.training import TINY_FLAGS


@pytest.mark.usefixtures("compiled_once")
def test_three_ways_give_the_same_figures(tmp_path, capsys):
    """Of a run whose seed, size, motion and number of scenes are nobody's defaults."""
    flags = [*TINY_FLAGS, f"--workdir={tmp_path}", "--config.num_steps=2", "--config.seed=5"]
    flags += ["--config.eval.every=2", "--config.eval.count=3", "--config.data.motion=0.5"]
    assert main.main(flags) == 0
    last = list(csv.DictReader((tmp_path / "metrics.csv").open()))[-1]
    assert main.main([*flags, "--mode=evaluate"]) == 0
    blurry, trained = report.read(tmp_path / "evaluation").rows
    assert float(last["eval_psnr_blurry"]) == pytest.approx(blurry.mean["psnr"], abs=1e-4)
    for name in METRIC_NAMES:
        assert float(last[f"eval_{name}"]) == pytest.approx(trained.mean[name], abs=1e-4)

    argv = [str(tmp_path / "checkpoints" / "2"), "--data", "synthetic", "--no-timing"]
    argv += ["--synthetic-seed", "5", "--synthetic-count", "3", "--synthetic-motion", "0.5"]
    argv += ["--synthetic-size", "32x40", "--report", str(tmp_path / "own")]
    assert evaluate.main(argv) == 0
    own = report.read(tmp_path / "own")
    assert [row.mean for row in own.rows] == [blurry.mean, trained.mean]
    assert (own.images, own.of) == (3, 3)


def test_pairs_of_a_config():
    config = start_from("configs/base.py")
    config.seed = 7
    pairs = pairs_of(config)
    assert (pairs.source, pairs.split, pairs.limit) == ("gopro", "test", 32)
    assert pairs.described() == {}  # the same pairs as `dmphn evaluate --data gopro --limit 32`
    assert pairs.indices([f"{i}" for i in range(64)]) == list(range(0, 64, 2))
    config.eval.count = 0
    assert pairs_of(config).limit is None
    config.eval.source = "synthetic"
    options = pairs_of(config).options
    assert (options.count, options.seed, options.size) == (32, 7, (360, 640))
    config.eval.source, config.data.data_dir = "folder", "my/pairs"
    assert pairs_of(config).name == "my/pairs"
