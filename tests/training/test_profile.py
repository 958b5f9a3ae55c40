"""A profile begins and ends with the steps that a start of the run takes."""

from __future__ import annotations

import itertools

import jax
import pytest

from dmphn_jax.runtime import data_mesh
from dmphn_jax.training.loop import train
from dmphn_jax.training.profile import Profile
from tests.support.training import ArrayFeed, tiny_config


@pytest.fixture
def traces(monkeypatch):
    """What the profiler was asked to do."""
    asked = []
    monkeypatch.setattr(jax.profiler, "start_trace", lambda folder: asked.append("start"))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: asked.append("stop"))
    return asked


def go_over(steps, ends, folder):
    """The lines of a profile of the steps between `steps`, in a run that stops at `ends`."""
    said = []
    profile = Profile(steps, folder, said.append)
    for before, after in itertools.pairwise(ends):
        profile.before(before, lambda: None)
        profile.after(after, lambda: None)
    profile.close(ends[-1])
    return said


@pytest.mark.parametrize(
    ("ends", "line"),
    [
        ([0, 2, 4, 6, 8], "profile of steps 2 to 6: "),
        ([4, 6, 8], "profile of steps 4 to 6: "),  # resumed in between
        ([0, 2, 4], "profile of steps 2 to 4: "),  # ends in between
    ],
)
def test_a_trace_is_begun_and_ended_once(ends, line, traces, tmp_path):
    (said,) = go_over((2, 6), ends, tmp_path)
    assert said.startswith(line)
    assert traces == ["start", "stop"]


@pytest.mark.parametrize("ends", [[6, 8], [8], [0, 2]])
def test_a_run_without_the_steps_says_so(ends, traces, tmp_path):
    assert go_over((2, 6), ends, tmp_path) == ["no profile: the run took no step from 2 to 6"]
    assert traces == []


@pytest.mark.usefixtures("compiled_once")
def test_a_resumed_run_profiles_what_it_takes_of_the_steps(traces, tmp_path, capsys):
    for steps, profile in ((4, None), (8, (2, 6))):
        config = tiny_config(num_steps=steps)
        train(config, tmp_path, feed=ArrayFeed(config, data_mesh()), profile=profile)
    assert f"profile of steps 4 to 6: {tmp_path}/profile" in capsys.readouterr().out
    assert traces == ["start", "stop"]
