"""Checkpoints by name: brought, checked, converted and kept once; else one line with a way out."""

from __future__ import annotations

import io
import os
import shutil
import sys

import pytest

from dmphn_jax import checkpoints, cli, runtime
from dmphn_jax.checkpoints import items, weights
from dmphn_jax.checkpoints.torch import authors
from dmphn_jax.errors import UserError
from tests.checkpoints.torch.weights import narrow
from tests.support import mirror as m
from tests.support.mirror import FAKE, NAME, assert_here, sizes


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
