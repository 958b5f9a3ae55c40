"""`dmphn deblur` in several processes that share a folder: each output once, none left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from dmphn_jax.inference import deblurrer as inference
from dmphn_jax.inference.shared_jobs import FOLDER
from dmphn_jax.processes import claims, sharing
from dmphn_jax.processes.claims import Claims
from tests.support.deblur import deblurrer_of, run
from tests.support.films import make_film, pictures
from tests.support.pictures import noise, saved, tree

COUNT = 24
# A process that says what it computes, and stops in the middle of its `argv[1]`th image.
WORKER = """
import sys, time
from dmphn_jax.commands import deblur
from dmphn_jax.errors import run_command
from dmphn_jax.inference import deblurrer as inference

submit, begun = inference.Deblurrer.submit, []

def told(self, images):
    begun.append(1)
    print("computing", flush=True)
    if len(begun) == int(sys.argv[1]):
        time.sleep(600)
    return submit(self, images)

inference.Deblurrer.submit = told
sys.exit(run_command(deblur.main, sys.argv[2:]))
"""


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(COUNT):
        size = (16, 20) if index % 3 else (24, 16)
        saved(folder / f"{index:02}.png", noise(*size, 3, seed=index))
    return folder


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(sharing, "PATIENCE", 0)


def start(stop_at, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", WORKER, str(stop_at), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def made(folder):
    return [name for name in tree(folder) if not name.startswith(".")]


def until_made(folder, count):
    while len(made(folder)) < count:
        time.sleep(0.01)


def contents(folder):
    return {name: (folder / name).read_bytes() for name in tree(folder)}


def counting(monkeypatch):
    """Puts a network that changes nothing in place; returns the list of what it computes."""
    computed = []
    monkeypatch.setattr(inference, "Deblurrer", deblurrer_of(lambda x: computed.append(1) or x))
    return computed


def test_of_three_processes_one_is_killed_and_the_others_finish_its_share(
    tmp_path, photos, checkpoint, compiled_once
):
    alone, out = tmp_path / "alone", tmp_path / "out"
    assert run(photos, "-c", checkpoint, "-o", alone, "-q") == 0

    flags = (photos, "-c", checkpoint, "-o", out, "--process")
    killed = start(4, *flags, "0/3")
    for _ in range(4):
        assert killed.stdout.readline() == "computing\n"
    # Two of the four are taken back and written, one is on the device, one is being submitted.
    until_made(out, 2)

    others = [start(0, *flags, f"{i}/3") for i in (1, 2)]
    for other in others:  # all they can take is done
        while not (line := other.stderr.readline()).startswith("dmphn: waiting for "):
            assert line
        assert "2 with process 0 of 3 (pid " in line
    until_made(out, COUNT - 2)
    killed.kill()
    killed.wait()

    said = [other.communicate(timeout=60)[0].splitlines() for other in others]
    assert [other.returncode for other in others] == [0, 0]
    computed = [lines.count("computing") for lines in said]
    assert sum(computed) == COUNT - 2  # each once
    for i, lines in enumerate(said):
        rest = COUNT - computed[i]
        assert lines[-1].startswith(f"deblurred {computed[i]} of ")
        assert f"; {rest} by other processes" in lines[-1] or f"; {rest - 2} by" in lines[-1]
    assert contents(out) == contents(alone)  # nothing of the claims is left either


def test_run_again_it_does_what_is_missing_only(tmp_path, photos, checkpoint, monkeypatch, capsys):
    out, computed = tmp_path / "out", counting(monkeypatch)
    assert run(photos, "-c", checkpoint, "-o", out, "--process", "1/3") == 0
    assert len(computed) == COUNT
    assert f"deblurred {COUNT} of {COUNT}" in capsys.readouterr().out
    for name in ("03.png", "17.png"):
        (out / name).unlink()
    computed.clear()
    assert run(photos, "-c", checkpoint, "-o", out, "--process", "0/2") == 0
    assert len(computed) == 2
    assert f"deblurred 2 of 2 into {out}; {COUNT - 2} skipped" in capsys.readouterr().out
    assert not (out / FOLDER).exists()


def test_sigterm_leaves_the_rest_for_the_others(tmp_path, photos, checkpoint, monkeypatch, capsys):
    out, calls = tmp_path / "out", []

    def terminated(image):
        calls.append(1)
        if len(calls) == 6:
            os.kill(os.getpid(), signal.SIGTERM)
        return image

    monkeypatch.setattr(inference, "Deblurrer", deblurrer_of(terminated))
    with Claims(out / FOLDER, "process 1 of 2") as other:
        with pytest.raises(SystemExit) as ending:
            run(photos, "-c", checkpoint, "-o", out, "--process", "0/2")
        assert ending.value.code == os.EX_TEMPFAIL
        assert "run the same command again" in capsys.readouterr().err
        assert other.alone()
    before = made(out)
    assert 0 < len(before) < COUNT
    computed = counting(monkeypatch)
    assert run(photos, "-c", checkpoint, "-o", out, "--process", "0/1") == 0
    assert len(computed) == COUNT - len(before)
    assert len(tree(out)) == COUNT  # a lone run clears away what the claims left


def test_what_others_are_at_work_on_is_said(
    tmp_path, photos, checkpoint, inverter, impatient, capsys
):
    out = tmp_path / "out"
    with Claims(out / FOLDER, "process 1 of 2") as other:
        assert other.take("05.png\n1")
        assert run(photos, "-c", checkpoint, "-o", out, "--process", "0/2") == 0
        captured = capsys.readouterr()
        assert captured.err == ""
        assert f"deblurred {COUNT - 1} of {COUNT} into {out}; 1 with process 1 of 2 (pid" in (
            captured.out
        )
        assert "still at work on it" in captured.out
    assert "05.png" not in tree(out)


def test_what_fails_is_told_once_and_known_to_all(
    tmp_path, photos, checkpoint, inverter, monkeypatch, capsys
):
    (photos / "03.png").write_bytes(b"no picture")
    out = tmp_path / "out"
    with Claims(out / FOLDER, "process 1 of 2") as other:
        assert run(photos, "-c", checkpoint, "-o", out, "--process", "0/2") == 1
        captured = capsys.readouterr()
        assert captured.err.count("03.png") == 1
        assert f"deblurred {COUNT - 1} of {COUNT} into {out}; 1 failed" in captured.out
        assert other.look("03.png\n1").failure

        # To one that came at the same time and is done a little later.
        monkeypatch.setattr(claims.Claims, "_now", lambda self: 0.0)
        (out / "04.png").unlink()
        assert run(photos, "-c", checkpoint, "-o", out, "--process", "1/2") == 1
        captured = capsys.readouterr()
        assert captured.err == ""
        assert "1 failed in other processes, which say why" in captured.out


def test_films_are_shared_whole(tmp_path, checkpoint, inverter, impatient, capsys):
    pytest.importorskip("av")
    films, out = tmp_path / "films", tmp_path / "out"
    films.mkdir()
    for name in ("a.mp4", "b.mp4"):
        make_film(films / name, pictures(3), sound=None)
    saved(films / "c.png", noise(16, 20, 3))
    with Claims(out / FOLDER, "process 1 of 2") as other:
        assert other.take("a.mp4\n1")
        assert run(films, "-c", checkpoint, "-o", out, "--process", "0/2", "-q") == 0
        assert made(out) == ["b.mp4", "c.png"]
    assert run(films, "-c", checkpoint, "-o", out, "--process", "0/2", "-q") == 0
    assert tree(out) == ["a.mp4", "b.mp4", "c.png"]


def test_several_processes_replace_nothing(tmp_path, photos, checkpoint, capsys):
    flags = ("-c", checkpoint, "-o", tmp_path / "out", "--process", "0/2", "--overwrite")
    assert run(photos, *flags) == 2
    assert "--overwrite: of several processes" in capsys.readouterr().err


def test_a_folder_of_many_sizes_takes_the_same_programs_in_every_process(
    tmp_path, checkpoint, monkeypatch
):
    """Also in one that comes when some are done: by those sizes too the programs are chosen."""
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    for index in range(10):
        saved(photos / f"{index}.png", noise(12 + index, 16, 3))
    prepared = []
    network = deblurrer_of(lambda image: image)
    monkeypatch.setattr(network, "compile_for", lambda self, sizes: prepared.append([*sizes]))
    monkeypatch.setattr(inference, "Deblurrer", network)
    assert run(photos, "-c", checkpoint, "-o", out, "-q") == 0
    for index in (3, 7):
        (out / f"{index}.png").unlink()
    assert run(photos, "-c", checkpoint, "-o", out, "-q", "--process", "0/2") == 0
    assert prepared[0] == prepared[2] == [(12 + index, 16) for index in range(10)]
    assert prepared[1] == prepared[3] == []  # for films
