"""Fields of a config: what no run can have is refused before anything is loaded."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dmphn_jax import main
from dmphn_jax.data.host_feed import HostFeed
from dmphn_jax.data.options import SOURCES
from dmphn_jax.data.resident_feed import ResidentFeed
from dmphn_jax.errors import UserError
from dmphn_jax.training import prepare as preparing
from dmphn_jax.training import settings
from dmphn_jax.training.experiments import folder
from dmphn_jax.training.loop import train
from dmphn_jax.training.ranges import RANGES, Range
from tests.support.training import TINY_FLAGS, tiny_config

DOCS = Path(__file__).resolve().parent.parent.parent / "docs"


@pytest.mark.parametrize(
    ("flag", "line"),
    [
        ("data.size=128", "size .* needs a height and a width"),
        ("data.size=128,128,128", "size .* needs a height and a width"),
        ("data.motion=nan", "motion nan"),
        ("data.blur=blurr", "'blurr' is not known"),
        ("data.source=synthetik", "data.source = 'synthetik'.* mean 'synthetic'"),
        ("eval.source=gopr", "eval.source = 'gopr'.* mean 'gopro'"),
        ("seed=99999999999999999999", "seed = 99999999999999999999 must be at most"),
        ("seed=-1", "seed = -1 must be at least 0"),
        ("model.width=100000000", "model.width = 100000000 must be at most 1,024"),
        ("batch_size=100000000", "batch_size = 100000000 must be at most 1,000,000"),
        ("crop_size=64", "smaller than config.crop_size = 64"),
        ("optimizer.beta1=2", "optimizer.beta1 = 2.0 must be below 1"),
        ("optimizer.beta2=1", "optimizer.beta2 = 1.0 must be below 1"),
        ("optimizer.epsilon=0", "optimizer.epsilon = 0.0 must be above 0"),
        ("optimizer.clip_norm=inf", "optimizer.clip_norm = inf must be at most"),
        ("optimizer.clip_norm=nan", "optimizer.clip_norm = nan must be a number"),
        ("optimizer.learning_rate=-1", "learning_rate = -1.0 must be at least 0"),
        ("optimizer.decay_factor=0", "decay_factor = 0.0 must be above 0"),
        ("optimizer.accumulate_steps=0", "accumulate_steps = 0 must be at least 1"),
        ("ema_decay=1", "ema_decay = 1.0 must be below 1"),
        ("num_steps=9999999999", "num_steps = 9999999999 must be at most"),
        (f"num_steps=1{'0' * 400}", "num_steps = 1000.* must be at most"),
        ("loss.name=l2", "loss.name = 'l2' is not known"),
        ("augment=moden", "augment = 'moden' is not known .*'modern'"),
        ("optimizer.schedule=cosin", "schedule = 'cosin' is not known .*'cosine'"),
        ("optimizer.weight_decay=0.1", "needs config.optimizer.name = 'adamw'"),
        ("init_from=nowhere", "nowhere: no such checkpoint"),
    ],
)
def test_a_field_no_run_can_have_is_one_line_before_anything_is_opened(
    flag, line, tmp_path, monkeypatch
):
    def opened(*_, **__):
        raise AssertionError("opened data")

    monkeypatch.setattr(preparing, "choose_feed", opened)
    with pytest.raises(UserError, match=line) as error:
        main.main([*TINY_FLAGS, f"--config.{flag}", f"--workdir={tmp_path}/run"])
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


@pytest.fixture
def unbuilt(monkeypatch):
    """Has either feed fail as soon as it is built."""

    def built(*_, **__):
        raise AssertionError("built the feed")

    monkeypatch.setattr(ResidentFeed, "__init__", built)
    monkeypatch.setattr(HostFeed, "__init__", built)


@pytest.mark.parametrize("feed", ["host", "resident"])
def test_a_schedule_that_does_not_fit_is_refused_before_the_feed_is_built(feed, unbuilt, tmp_path):
    """Six pairs in batches of four: an epoch is one step."""
    flags = [*TINY_FLAGS, f"--config.data.feed={feed}", f"--workdir={tmp_path}/run"]
    flags += ["--config.num_steps=0", "--config.optimizer.schedule=cosine"]
    flags += ["--config.optimizer.warmup_steps=9"]
    with pytest.raises(UserError, match="warmup_steps = 9 leaves nothing of num_steps = 7"):
        main.main([*flags, "--config.num_epochs=7"])
    with pytest.raises(AssertionError, match="built the feed"):
        main.main([*flags, "--config.num_epochs=10"])


@pytest.mark.parametrize(
    ("before", "line"),
    [
        ({"num_steps": 9}, "a run of config.num_steps = 9, now 8, and its cosine schedule"),
        ({"feed_kind": "ResidentFeed"}, "another config.data.feed .*now HostFeed"),
        ({"steps_per_epoch": 2}, "another config.data .*2, now 1"),
    ],
)
def test_another_runs_schedule_is_refused_before_the_feed_is_built(
    before, line, unbuilt, tmp_path, monkeypatch
):
    config = tiny_config(optimizer__schedule="cosine", data__source="synthetic", data__count=6)
    config.data.feed, config.data.size = "host", (32, 40)
    config.num_steps = 8
    fields = settings.flat(config)
    fields["num_steps"] = before.get("num_steps", 8)
    saved = {"step": 4, "config": fields, "feed_kind": "HostFeed", "steps_per_epoch": 1, **before}
    monkeypatch.setattr(preparing, "_take", lambda *_: (None, saved))
    with pytest.raises(UserError, match=line):
        train(config, tmp_path)


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("optimizer.nam", "adam", "no field config.optimizer.nam|no such field .*optimizer.name"),
        ("batch_sise", 3, "config.batch_sise: no such field .*'batch_size'"),
        ("batch_size", "3", "batch_size = 3 must be a whole number"),
        ("batch_size", 4.0, "batch_size = 4.0 must be a whole number"),
    ],
)
def test_a_config_of_ones_own_may_mistype_a_field_too(name, value, line, tmp_path):
    config = tiny_config()
    with config.unlocked(), config.ignore_type():
        config.update_from_flattened_dict({name: value})
    with pytest.raises(UserError, match=line):
        train(config, tmp_path / "run")


def test_a_field_that_is_missing_is_named(tmp_path):
    config = tiny_config()
    del config.ema_decay
    with pytest.raises(UserError, match=r"config.ema_decay is missing"):
        train(config, tmp_path)


def test_every_numeric_field_has_a_range():
    fields = settings.flat(tiny_config())
    numeric = {name for name, value in fields.items() if type(value) in (int, float)}
    scenes = {"data.count", "data.motion"}  # checked with their source
    assert numeric - scenes == set(RANGES)
    settings.check(tiny_config())


def test_a_range_tells_its_ends():
    assert Range(0.0, 1.0, without="high").refusal(1.0) == "must be below 1.0"
    assert Range(0.0, 1.0).refusal(1.0) == ""
    assert Range(1, 3).refusal(True) == "must be a whole number"
    assert Range(1, 3).refusal(2) == ""


def test_what_cannot_fit_into_memory_is_refused_before_anything_is_built(tmp_path, monkeypatch):
    monkeypatch.setattr(preparing, "build", None)
    flags = ["--config.batch_size=1000000", "--config.crop_size=16384"]
    flags += ["--config.data.source=folder", f"--config.data.data_dir={tmp_path}"]
    with pytest.raises(UserError, match=r"config.batch_size = 1000000 crops .* take smaller ones"):
        main.main([*TINY_FLAGS, *flags, f"--workdir={tmp_path}/run"])
    assert not (tmp_path / "run").exists()


def test_the_base_config_and_the_docs_name_every_choice():
    base = (folder() / "base.py").read_text()
    docs = (DOCS / "training.md").read_text()
    for name, known in settings.choices().items():
        for choice in known:
            assert f'"{choice}"' in base, f"{name}: {choice} in configs/base.py"
            assert re.search(rf"\b{re.escape(choice)}\b", docs), f"{name}: {choice} in training.md"
    for source in SOURCES:
        assert f'"{source}"' in base


def test_unknown_stores_are_refused_not_made_into_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"s3://bucket/run: s3:// is not known; a path, or gs://"):
        main.main([*TINY_FLAGS, "--workdir=s3://bucket/run"])
    assert list(tmp_path.iterdir()) == []
