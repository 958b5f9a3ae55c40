"""Whatever stops a run leaves whole files only."""

import signal
import subprocess
import sys

import numpy as np
import pytest

from dmphn_jax.inference import deblurrer as inference
from tests.support.deblur import deblurrer_of, jobs_of, run
from tests.support.pictures import SHAPE, noise, pixels, saved, tree

KILLED = """
import sys, time
from dmphn_jax.commands import deblur
from dmphn_jax.inference import deblurrer as inference
from tests.support.deblur import deblurrer_of

def slow(image):
    print("working", flush=True)
    time.sleep(0.02)
    return image

inference.Deblurrer = deblurrer_of(slow)
from dmphn_jax.errors import run_command
sys.exit(run_command(deblur.main, sys.argv[1:]))
"""


def test_unwritable_outputs_are_lines(tmp_path, checkpoint, inverter, capsys):
    photos, out = tmp_path / "photos", tmp_path / "out"
    (photos / "sub").mkdir(parents=True)
    for name in ("a.png", "sub/b.png"):
        saved(photos / name, noise(*SHAPE, 3))
    out.mkdir()
    (out / "sub").write_text("a file where a folder must be")
    assert run(photos, "-c", checkpoint, "-o", out) == 1
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert "cannot be written" in captured.err
    assert tree(out) == ["a.png", "sub"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_interrupt_leaves_whole_files_only(tmp_path, checkpoint, monkeypatch, capsys, error):
    photos, out = tmp_path / "photos", tmp_path / "out"
    jobs_of(photos, out, 12)
    calls = []

    def interrupted(image):
        calls.append(1)
        if len(calls) == 6:
            raise error
        return image

    monkeypatch.setattr(inference, "Deblurrer", deblurrer_of(interrupted))
    if error is KeyboardInterrupt:
        assert run(photos, "-c", checkpoint, "-o", out) == 130
    else:
        with pytest.raises(SystemExit):
            run(photos, "-c", checkpoint, "-o", out)
    assert "run the same command again" in capsys.readouterr().err
    assert all(name.endswith(".png") and not name.startswith(".") for name in tree(out))
    for name in tree(out):
        np.testing.assert_array_equal(pixels(out / name), pixels(photos / name))
    monkeypatch.setattr(inference, "Deblurrer", deblurrer_of(lambda image: image))
    assert run(photos, "-c", checkpoint, "-o", out) == 0
    assert len(tree(out)) == 12


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_killed_runs_leave_whole_files_and_are_finished_by_the_same_command(
    tmp_path, checkpoint, monkeypatch, number
):
    photos, out = tmp_path / "photos", tmp_path / "out"
    jobs_of(photos, out, 40)
    command = [photos, "-c", checkpoint, "-o"]
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, *command, out],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    for _ in range(5):
        process.stdout.readline()
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == (143 if number == signal.SIGTERM else -number)
    assert b"Traceback" not in error
    whole = [name for name in tree(out) if not name.startswith(".dmphn-")]
    assert len(whole) < 40
    for name in whole:
        np.testing.assert_array_equal(pixels(out / name), pixels(photos / name))
    if number == signal.SIGTERM:
        assert whole == tree(out)
    monkeypatch.setattr(inference, "Deblurrer", deblurrer_of(lambda image: image))
    assert run(*command, out) == 0
    assert run(*command, tmp_path / "at_once") == 0
    assert tree(out) == tree(tmp_path / "at_once")  # and nothing half written
    for name in tree(out):
        assert (out / name).read_bytes() == (tmp_path / "at_once" / name).read_bytes()
