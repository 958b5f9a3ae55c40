"""Checkpoints by name: brought, checked, converted and kept once; else one line with a way out."""

from __future__ import annotations

import io
import os
import pickle
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest

import dmphn_jax
from dmphn_jax import checkpoints, cli, runtime
from dmphn_jax.checkpoints import items, weights
from dmphn_jax.checkpoints.torch import authors
from dmphn_jax.checkpoints.torch.reading import params_from_torch
from dmphn_jax.commands import models
from dmphn_jax.errors import UserError
from dmphn_jax.models import zoo
from dmphn_jax.training.initialize import check, initial_params
from tests.checkpoints.torch.weights import assert_same_bits, narrow
from tests.support import mirror as m
from tests.support.mirror import FAKE
from tests.support.pictures import SHAPE, noise, pixels, saved

NAME = "dmphn_1"


def sizes(release, name=NAME):
    return sum(file.size for file in release.folders[name].files)


def assert_here(path, repository, name=NAME):
    params, config = params_from_torch(repository[0] / FAKE[name])
    found = checkpoints.load(path)
    assert found.config == config == narrow(name)
    assert_same_bits(found.params, params)


@pytest.fixture
def use(mirror, released, monkeypatch):
    """The mirror, which the environment names."""
    monkeypatch.setenv(weights.VARIABLE, mirror.address)
    return mirror


@pytest.fixture
def have(repository, released, monkeypatch):
    """A released model that is here."""
    path = weights.pull(NAME, str(repository[0]))
    monkeypatch.setenv(weights.VARIABLE, "http://127.0.0.1:1")  # nothing else comes from anywhere
    return path


def refused(name=NAME) -> str:
    with pytest.raises(UserError) as error:
        checkpoints.load(name)
    assert "\n" not in str(error.value)
    return str(error.value)


def refused_with_a_way_out(cache) -> str:
    text = refused()
    clone = f"https://{authors.release().repository}"
    assert text.endswith(
        f"; or by hand: git clone {clone}, then dmphn convert "
        f"DMPHN-cvpr19-master/checkpoints/DMPHN_1 {NAME}"
    )
    assert not (cache / NAME).exists()
    return text


def test_a_name_is_brought_once_and_kept(use, cache, repository, capfd):
    assert_here(NAME, repository)
    assert use.served == sizes(repository[1])
    assert checkpoints.resolve(NAME) == cache / NAME
    info = checkpoints.load(NAME).info
    assert info["origin"].startswith("the authors' checkpoints/DMPHN_1, github.com/Hongguang")
    assert weights.pull(NAME) == cache / NAME
    assert len(use.requests) == 2
    left = {path.name for path in cache.iterdir()}
    assert left == {NAME, "NOTICE", f".{NAME}.lock"}
    out, err = capfd.readouterr()
    assert out == ""
    assert "no licence file" in err
    assert f"from {use.address}/checkpoints/DMPHN_1" in err


def test_progress_is_drawn_on_a_terminal_and_counts_what_broke_off_once(use, cache, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    use.answers = [m.cut(1000), m.cut(0), m.all_of_it]
    monkeypatch.setattr(sys, "stderr", Terminal())
    weights.pull(NAME)
    assert f"{NAME}: 100%" in sys.stderr.getvalue()
    shutil.rmtree(cache / NAME)
    monkeypatch.setattr(sys, "stderr", Terminal())
    weights.pull(NAME, quiet=True)
    assert sys.stderr.getvalue() == ""


def test_the_licence_is_said_once(use, cache, capfd):
    for name in FAKE:
        weights.pull(name, quiet=True)
    shutil.rmtree(cache / NAME)
    weights.pull(NAME, quiet=True)
    assert capfd.readouterr().err.count("licence") == 2  # of one line
    assert "no licence file" in (cache / "NOTICE").read_text()


def test_a_folder_of_that_name_comes_first(have, tmp_path):
    shutil.copytree(have, "stack2")
    assert checkpoints.load("stack2").config == narrow(NAME)
    assert checkpoints.resolve("stack2").absolute() == tmp_path / "here" / "stack2"
    os.mkdir(NAME)
    assert "not a checkpoint" in refused()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("dmphn1", f"did you mean {NAME!r}"),
        ("stack_2", "did you mean 'stack2'"),
        ("runs/stack2", "did you mean 'stack2'"),
        ("vmphn", "the authors released no weights of vmphn"),
        ("photos", "released models are dmphn_1, stack2"),
        ("a\nb", "a\\nb: no such checkpoint folder"),
    ],
)
def test_an_unknown_name_is_told_with_the_nearest(released, name, said):
    assert said in refused(name)


ANSWERS = {
    "404": (m.status(404), "the server answers 404 Not Found"),
    "500": (m.status(500), "the server answers 500"),
    "tampered": (m.tampered, "does not have the SHA-256 of the authors' file"),
    "another": (m.another, "has 20 bytes, the authors' file"),
    "cut": (m.cut(0), "ends after 0 of"),
    "stall": (m.stall(0), "fewer than 256 bytes came in 0.2 s"),
}


@pytest.mark.parametrize("kind", ANSWERS)
def test_what_goes_wrong_is_one_line_and_the_next_time_goes_on(use, cache, repository, kind):
    answer, said = ANSWERS[kind]
    use.answers = [m.whole, *[answer] * 3]
    text = refused_with_a_way_out(cache)
    assert said in text
    assert f"{use.address}/checkpoints/DMPHN_1/" in text
    use.answers, before = [], len(use.requests)
    assert_here(NAME, repository)
    second = repository[1].folders[NAME].files[1]
    assert use.requests[before:] == [(f"/checkpoints/DMPHN_1/{second.name}", None)]


def test_no_network(released, cache, monkeypatch):
    monkeypatch.setenv(weights.VARIABLE, "http://127.0.0.1:1")
    assert "Connection refused" in refused_with_a_way_out(cache)


def test_a_full_disk_keeps_what_was_brought(use, cache, repository, monkeypatch):
    def write(*_):
        raise OSError(28, os.strerror(28))

    with monkeypatch.context() as patch:
        patch.setattr(items, "write", write)
        assert "No space left on device; or by hand" in refused_with_a_way_out(cache)
    assert_here(NAME, repository)
    assert len(use.requests) == 2


def test_a_cache_that_cannot_be(released, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    runtime.cache_folder.cache_clear()
    text = refused()
    assert "there is no cache to keep it in (XDG_CACHE_HOME names one)" in text
    assert "git clone" in text


def test_a_cache_that_fails(use, cache):
    (cache / f".{NAME}.lock").mkdir(parents=True, mode=0o700)
    runtime.cache_folder.cache_clear()
    assert f".{NAME}.lock: Is a directory; or by hand" in refused_with_a_way_out(cache)


def test_a_cache_that_cannot_be_written(have, cache, repository):
    cache.chmod(0o500)
    try:
        if os.access(cache, os.W_OK):
            pytest.skip("this user may write anywhere")
        runtime.cache_folder.cache_clear()
        assert_here(NAME, repository)
        assert "Permission denied; or by hand" in refused("stack2")
    finally:
        cache.chmod(0o700)


def test_a_cache_that_may_only_be_read_serves(have, repository, monkeypatch):
    runtime.cache_folder.cache_clear()
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert_here(NAME, repository)


def test_a_cache_that_others_may_write_is_not_used(have, cache, capfd):
    runtime.cache_folder.cache_clear()
    cache.chmod(0o777)
    assert "there is no cache" in refused()
    assert capfd.readouterr().err.count("others than you may write") == 1


@pytest.mark.parametrize("damage", ["record", "arrays"])
def test_a_damaged_one_says_what_mends_it_and_pull_does(use, cache, repository, damage):
    path = weights.pull(NAME)
    if damage == "record":
        items.record_file(path, "model").unlink()
    else:
        shutil.rmtree(path / "params")
    assert f"; `dmphn pull {NAME}` brings it anew" in refused()
    weights.pull(NAME)
    assert_here(NAME, repository)
    assert len(use.requests) == 4
    assert not list(cache.glob("*.replacing"))


@pytest.mark.parametrize("how", ["flag", "folder", "environment", "http"])
def test_a_mirror(how, released, repository, mirror, monkeypatch, capfd):
    root = repository[0]
    base = {"folder": str(root), "http": f"{mirror.address}/"}.get(how, root.as_uri())
    if how == "environment":
        monkeypatch.setenv(weights.VARIABLE, base)
    given = [] if how == "environment" else ["--from", base]
    assert cli.main(["pull", NAME, *given]) == 0
    assert_here(NAME, repository)
    assert capfd.readouterr().out == f"{NAME}: {checkpoints.resolve(NAME)}\n"


@pytest.mark.parametrize(
    "base", ["ftp://host/a", "http://", "https://user:secret@host/", "http://h:x/", "http://h/?a=b"]
)
def test_an_address_that_is_none(released, base, capfd, monkeypatch):
    assert cli.main(["pull", NAME, "--from", base]) == 2
    assert capfd.readouterr().err.startswith(f"dmphn: error: --from {base}: not an address")
    monkeypatch.setenv(weights.VARIABLE, base)
    assert refused().startswith(f"{weights.VARIABLE} {base}: not an address")


def test_where_the_authors_files_are(cache):
    assert weights._base(None) == (
        "https://raw.githubusercontent.com/HongguangZhang/DMPHN-cvpr19-master/"
        "9fff261daca8beb0cbaaa0b64df4239b5a05dd17"
    )


def test_pull_all_goes_on_behind_a_failure(use, repository, capfd):
    use.answers = [m.status(404)]
    assert cli.main(["pull", "all", "--quiet"]) == 1
    out, err = capfd.readouterr()
    assert out.startswith("stack2: ")
    assert err.count("\n") == 2  # and the licence
    assert f"dmphn: failed: {NAME}: http" in err
    assert_here("stack2", repository, "stack2")
    assert cli.main(["pull", "stack5"]) == 2
    assert "stack5" in capfd.readouterr().err


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
