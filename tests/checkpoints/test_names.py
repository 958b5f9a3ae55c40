"""Whatever loads a checkpoint takes a name, from several processes at once too."""

from __future__ import annotations

import pickle
import subprocess
import sys
import time

import numpy as np
import pytest

import dmphn_jax
from dmphn_jax import checkpoints, cli
from dmphn_jax.checkpoints import weights
from dmphn_jax.checkpoints.torch import authors
from dmphn_jax.checkpoints.torch.reading import params_from_torch
from dmphn_jax.commands import models
from dmphn_jax.models import zoo
from dmphn_jax.training.initialize import check, initial_params
from tests.checkpoints.torch.weights import assert_same_bits, narrow
from tests.support import mirror as m
from tests.support.mirror import NAME, assert_here, sizes
from tests.support.pictures import SHAPE, noise, pixels, saved


def test_models_tells_what_is_here(have, capfd):
    assert cli.main(["models"]) == 0
    rows = {line.split("|")[1].strip(): line for line in capfd.readouterr().out.splitlines()}
    assert rows["name"].split("|")[-2].strip() == "weights"
    column = {name: row.split("|")[-2].strip() for name, row in rows.items() if name in zoo.ZOO}
    assert {name: text for name, text in column.items() if text} == {
        NAME: "here",
        "stack2": "to pull",
    }
    assert "weights" not in models.table()


CHILD = """
import pickle, sys
from dmphn_jax import cli
from dmphn_jax.checkpoints.torch import authors
table = pickle.loads(open(sys.argv[1], "rb").read())
authors.release = lambda: table
sys.exit(cli.main(["pull", "dmphn_1"]))
"""


@pytest.fixture
def start(use, tmp_path, released):
    """Starts a process that pulls."""
    table = tmp_path / "table"
    table.write_bytes(pickle.dumps(released))
    command = [sys.executable, "-c", CHILD, str(table)]
    return lambda: subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def test_two_processes_at_once_bring_it_once(start, use, repository):
    use.answers = [m.stall(100)]
    first = start()
    assert use.waiting.wait(60)
    second = start()
    assert "another process brings it; waiting" in second.stderr.readline()
    use.go.set()
    assert first.wait() == second.wait() == 0
    first.stderr.close()
    second.stderr.close()
    assert use.served == sizes(repository[1])
    assert_here(NAME, repository)


def test_a_killed_one_is_gone_on_with(start, use, cache, repository):
    use.answers = [m.whole, m.stall(20_000)]
    process = start()
    second = repository[1].folders[NAME].files[1]
    part = cache / f".{NAME}.download" / f"{second.name}.part"
    assert use.waiting.wait(60)
    while not (part.exists() and part.stat().st_size):
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    process.stderr.close()
    arrived, before = part.stat().st_size, len(use.requests)
    assert not (cache / NAME).exists()
    assert_here(NAME, repository)
    address = f"/checkpoints/DMPHN_1/{second.name}"
    assert use.requests[before:] == [(address, f"bytes={arrived}-")]


def test_everything_that_loads_takes_a_name(have, tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "")
    image = saved(tmp_path / "a.png", noise(*SHAPE, 3))
    folder = have
    assert dmphn_jax.Deblurrer(NAME).digest == checkpoints.load(folder).digest
    out = tmp_path / "out.png"
    assert cli.main(["deblur", str(image), "-c", NAME, "-o", str(out), "-q"]) == 0
    assert np.array_equal(pixels(out), dmphn_jax.Deblurrer(folder)(pixels(image)))
    assert cli.main(["visualize", NAME, str(image), "--output", str(tmp_path / "v.png")]) == 0
    assert cli.main(["convert", "--to-torch", NAME, str(tmp_path / "torch")]) == 0
    assert (tmp_path / "torch" / "encoder_lv1.pkl").exists()
    check(narrow("stack2_dmphn_1"), NAME)
    params, origin = initial_params(narrow("stack2_dmphn_1"), init_from=NAME)
    assert_same_bits(params["stage_1"], checkpoints.load(folder).params["stage_1"])
    assert origin.startswith(f"{NAME} ({NAME})")
    data = ["--data", "synthetic", "--synthetic-size", "32x32", "--synthetic-count", "1"]
    assert cli.main(["evaluate", NAME, *data, "--no-timing"]) == 0
    assert "| dmphn_1, width 2 |" in capfd.readouterr().out


def test_a_wrong_name_stops_deblur_before_any_work_and_a_dry_run_brings_nothing(
    use, tmp_path, capfd
):
    image = saved(tmp_path / "a.png", noise(*SHAPE, 3))
    command = ["deblur", str(image), "-o", str(tmp_path / "out" / "b.png"), "-c"]
    assert cli.main([*command, "dmphn_1_2"]) == 2
    assert "released no weights of dmphn_1_2, but of" in capfd.readouterr().err
    assert cli.main([*command, NAME, "--dry-run"]) == 0
    assert use.requests == []
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("way", ["file", "http"])
def test_the_authors_own_files(reference, cache, tmp_path, monkeypatch, way):
    monkeypatch.chdir(tmp_path)
    with m.serving(reference) as mirror:
        base = mirror.address if way == "http" else reference.as_uri()
        monkeypatch.setenv(weights.VARIABLE, base)
        mirror.answers = [m.cut(1_000_000), m.status(503)]
        loaded = checkpoints.load("dmphn_1_2_4")
        if way == "http":
            assert mirror.served == sizes(authors.release(), "dmphn_1_2_4")
    params, config = params_from_torch(reference / "checkpoints" / "DMPHN_1_2_4")
    assert loaded.config == config
    assert loaded.digest == checkpoints.digest(params)
