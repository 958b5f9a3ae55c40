"""A run's own evaluation, `--mode evaluate` and `dmphn evaluate` judge alike."""

from __future__ import annotations

import csv
import json
import math

import jax
import pytest

from dmphn_jax import main
from dmphn_jax.checkpoints import items
from dmphn_jax.commands import evaluate
from dmphn_jax.errors import UserError
from dmphn_jax.evaluation import report
from dmphn_jax.evaluation.scores import METRIC_NAMES
from dmphn_jax.inference.deblurrer import Deblurrer
from dmphn_jax.models import init_params
from dmphn_jax.runtime import data_mesh
from dmphn_jax.training import loop, run_record, settings
from dmphn_jax.training.checkpoints import chosen_checkpoint
from dmphn_jax.training.experiments import start_from
from dmphn_jax.training.periodic import PeriodicEvaluation
from dmphn_jax.training.prepare import pairs_of
from dmphn_jax.training.run_log import RunLog
from tests.support.training import TINY_FLAGS, ArrayFeed, Pairs, tiny_config


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


class Unreadable(Pairs):
    """Test pairs that cannot be read while `broken`."""

    broken = True

    def __getitem__(self, index):
        if self.broken:
            raise UserError(f"{self.names[index]}: damaged")
        return super().__getitem__(index)


@pytest.mark.usefixtures("compiled_once")
def test_an_evaluation_without_a_score_is_no_best(tmp_path, capsys):
    """The checkpoints of a run whose first evaluation fails stay whole, and it goes on."""
    config = tiny_config(eval__every=2, checkpoint_every=2, num_steps=2)
    pairs = Unreadable()

    def train_on():
        return loop.train(config, tmp_path, feed=ArrayFeed(config, data_mesh()), test_source=pairs)

    assert train_on().scores == {}
    assert "none of its 3 pairs could be scored" in capsys.readouterr().out
    saved = tmp_path / "checkpoints"
    assert run_record.read(saved / "2")["best"] is None
    assert chosen_checkpoint(saved).name == "2"

    config.num_steps, pairs.broken = 6, False
    scores = train_on().scores
    assert "resumed at step 2" in capsys.readouterr().out
    assert not (tmp_path / "damaged").exists()
    rows = list(csv.DictReader((tmp_path / "metrics.csv").open()))
    judged = {int(row["step"]): float(row["eval_psnr"]) for row in rows if row["eval_psnr"]}
    assert list(judged) == [4, 6]
    assert scores["eval_psnr_blurry"] == pytest.approx(16.8, abs=0.5)
    step = max(judged, key=judged.get)
    assert run_record.read(saved / "6")["best"]["step"] == step
    assert chosen_checkpoint(saved).name == str(step)


@pytest.mark.usefixtures("compiled_once")
def test_equal_images_are_no_best_that_nothing_can_beat(tmp_path):
    config = tiny_config()
    model, log = settings.model_of(config), RunLog(tmp_path)
    params = jax.device_put(init_params(model))
    deblurrer = Deblurrer(params=params, config=model)

    class Solved(Pairs):
        def __getitem__(self, index):
            pair = super().__getitem__(index)
            return pair._replace(sharp=deblurrer(pair.blurry))

    evaluation = PeriodicEvaluation(Solved(), pairs_of(config), model, pictures=0, log=log)
    for best in ({"score": 30.0, "step": 1}, None):
        assert evaluation(params, 2, best) == (None, best)
        assert math.isinf(evaluation.scores["eval_psnr"])
    log.close()


def test_a_record_of_before_with_a_best_that_is_none(tmp_path):
    """Older runs took an evaluation of no pair for their best."""
    run = {"step": 4, "best": {"score": math.nan, "step": 2}, "config": {}, "feed": {}}
    record = items.record_file(tmp_path / "4", "run")
    record.parent.mkdir(parents=True)
    record.write_text(json.dumps(run_record.sealed(run, "0")))
    assert run_record.read(tmp_path / "4")["best"] is None
    assert chosen_checkpoint(tmp_path).name == "4"


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
