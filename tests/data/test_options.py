"""Names and options, which settings and commands read before anything is loaded."""

import dataclasses
import subprocess
import sys

import pytest

from dmphn_jax.data import FEEDS, RECIPES, SOURCES, SourceOptions, open_source
from dmphn_jax.data.base import Feed, StepFeed
from dmphn_jax.data.host_feed import HostFeed
from dmphn_jax.data.resident_feed import ResidentFeed
from dmphn_jax.errors import UserError


def test_registries_are_read_without_jax_and_numpy():
    code = "import sys, dmphn_jax.data.options; sys.exit(bool({'jax', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_registries_name_what_there_is(tmp_path):
    assert {"none", "stack", "modern"} == set(RECIPES)
    assert {HostFeed.kind, ResidentFeed.kind, "auto"} == set(FEEDS)
    assert issubclass(StepFeed, Feed)
    for name in SOURCES:
        if name == "synthetic":
            assert len(open_source(name, options=SourceOptions(count=3))) == 3
        else:  # known, and not there
            with pytest.raises(UserError, match=r"not prepared|no such folder of pairs"):
                open_source(name, options=SourceOptions(data_dir=tmp_path / "none"))


def test_options_are_those_of_a_config():
    fields = {"source": "synthetic", "feed": "host", "count": 5, "size": (40, 50), "threads": 2}
    options = SourceOptions.of(fields, seed=3)
    assert (options.count, options.size, options.seed) == (5, (40, 50), 3)
    with pytest.raises(dataclasses.FrozenInstanceError):
        options.count = 6


@pytest.mark.parametrize(
    "options",
    [{"size": (128,)}, {"motion": float("nan")}, {"count": 10**12}, {"blur": "bluw"}],
)
def test_options_are_checked_before_a_source_is_opened(options):
    with pytest.raises(UserError):
        SourceOptions(**options)
    with pytest.raises(UserError):
        SourceOptions.of({"feed": "host", "threads": 2, **options})
