"""Folders in a store: whole or not there, wherever a sender is killed; damage is found."""

from __future__ import annotations

import json

import pytest

from dmphn_jax.storage import folders, steps, store
from dmphn_jax.storage.folders import MANIFEST, UNFINISHED, DamagedFolderError
from dmphn_jax.storage.steps import Steps, chosen
from dmphn_jax.storage.store import StorageError, Store

FILES = {"params/d/a": b"0123456789" * 100, "params/meta": b"{}", "run/empty": b""}


class KilledError(BaseException):
    """Ends a sender as SIGKILL would: nothing it has not asked for yet is done."""


def make(folder, content=FILES):
    for name, data in content.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def content(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def bring(address, target):
    folders.bring_sent(address, target, folders.manifest(address))


@pytest.fixture
def dying(monkeypatch):
    """Kills at the n-th change of the store, before it is made; returns a setter for n."""
    left = [10**9]

    def before(method):
        def changed(self, *args, **kwargs):
            left[0] -= 1
            if left[0] < 0:
                raise KilledError
            return method(self, *args, **kwargs)

        return changed

    for name in ("write", "upload", "delete"):
        monkeypatch.setattr(Store, name, before(getattr(store.Store, name)))
    return lambda n: left.__setitem__(0, n)


def test_a_folder_goes_there_and_back(bucket, tmp_path):
    address = bucket.address / "a" / "b"
    folders.send(make(tmp_path / "in"), address, {"best": 3})
    assert folders.manifest(address).info == {"best": 3}
    bring(address, tmp_path / "out")
    assert content(tmp_path / "out") == FILES
    # What is there already is not brought again; what does not belong there goes.
    (tmp_path / "out" / "extra").touch()
    (tmp_path / "out" / "params" / "meta").write_bytes(b"[]")
    bucket.proxy.requests.clear()
    bring(address, tmp_path / "out")
    assert content(tmp_path / "out") == FILES
    brought = [r.name for r in bucket.proxy.requests if "download" in r.path]
    assert brought == ["a/b/MANIFEST.json", "a/b/params/meta"]
    names = {item.name for item in Store(address).list()}
    assert names == {*FILES, MANIFEST}


def test_a_sender_killed_anywhere_leaves_nothing_that_looks_whole(
    bucket, store_emulator, tmp_path, dying, monkeypatch
):
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", store_emulator)  # hundreds of requests
    own = Steps(bucket.address / "run", own=lambda: None)
    files = {"params/a": b"0123", "b": b"{}"}
    folder = make(tmp_path / "in", files)
    own.send(4, folder, None)
    for n in range(100):
        dying(n)
        try:
            own.send(8, folder, None)
        except KilledError:
            assert own.whole() == ([8, 4] if 8 in own.whole() else [4])
            for step in own.whole():
                own.bring(step, tmp_path / "out")
                assert content(tmp_path / "out") == files
            dying(10**9)
            if 8 not in own.whole():  # the next start
                own.clear()
                assert {item.name.split("/")[0] for item in Store(own.address).list()} == {"4"}
            folders.remove(own.address / "8")
        else:
            break
    dying(10**9)
    assert n > len(files)
    assert own.whole() == [8, 4]
    for n in range(100):  # so with a removal
        dying(n)
        try:
            own.prune(1, best=None)
        except KilledError:
            dying(10**9)
            if 4 in own.whole():
                own.bring(4, tmp_path / "out")
            own.clear()
            if 4 not in own.whole():
                own.send(4, folder, None)
        else:
            break
    assert n > len(files)
    assert own.whole() == [8]
    assert [item.name for item in Store(own.address / "4").list()] == []


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (lambda s: s.delete("params/d/a"), "params/d/a is missing"),
        (lambda s: s.write("params/d/a", b"0123"), "params/d/a has 4 of 1,000 bytes"),
        (lambda s: s.write("params/d/a", b"0123456788" * 100), "params/d/a is not what was sent"),
        (lambda s: s.write(MANIFEST, b"{"), "MANIFEST.json is not what was sent"),
        (lambda s: s.write(MANIFEST, b""), "MANIFEST.json is not what was sent"),
        (
            lambda s: s.write(MANIFEST, s.read(MANIFEST).data.replace(b"params", b"parans")),
            "MANIFEST.json is not what was sent",
        ),
        (lambda s: s.write(MANIFEST, b"[" * 100_000), "MANIFEST.json is not what was sent"),
    ],
)
def test_damage_is_one_line_that_names_the_object(bucket, damage, line, tmp_path):
    address = bucket.address / "x"
    folders.send(make(tmp_path / "in"), address, {})
    damage(Store(address))
    with pytest.raises(DamagedFolderError, match=rf"^{address}: damaged: {line}$"):
        bring(address, tmp_path / "out")


def test_a_newer_manifest_is_one_line(bucket):
    fields = {"format": 2, "files": {}, "info": {}}
    data = json.dumps(fields | {"digest": folders._digest(fields)}).encode()
    Store(bucket.address / "x").write(MANIFEST, data)
    with pytest.raises(Exception, match="x: a newer version wrote it; upgrade dmphn_jax"):
        folders.manifest(bucket.address / "x")


def test_steps_that_were_copied_there_count_and_are_not_cleared(bucket, tmp_path):
    own = Steps(bucket.address / "run", own=lambda: None)
    copied = Store(own.address / "12")
    for name, data in FILES.items():
        copied.write(name, data)
    Store(own.address / "16").write(UNFINISHED, b"")  # a save that was killed
    Store(own.address).write("16/params/meta", b"{}")
    own.clear()
    assert own.whole() == [12]
    own.bring(12, tmp_path / "out")
    assert content(tmp_path / "out") == FILES
    assert Store(own.address / "16").list() == []


def test_the_best_step_is_kept_and_chosen(bucket, tmp_path):
    own = Steps(bucket.address / "run", own=lambda: None)
    folder = make(tmp_path / "in")
    assert chosen(own.address) is None
    own.send(4, folder, None)
    assert chosen(own.address) == own.address / "4"
    for step in (8, 12, 16):
        own.send(step, folder, 8)
        own.prune(2, best=8)
    assert own.whole() == [16, 12, 8]
    assert chosen(own.address) == own.address / "8"
    Store(own.address / "16").write(MANIFEST, b"")
    assert chosen(own.address) == own.address / "8"
    folders.remove(own.address / "8")
    assert chosen(own.address) == own.address / "12"


def test_a_damaged_step_is_moved(bucket, tmp_path):
    own = Steps(bucket.address / "run" / "checkpoints", own=lambda: None)
    folder = make(tmp_path / "in")
    for _ in range(2):
        own.send(4, folder, None)
        target = own.set_aside(4)
    assert target == bucket.address / "run" / "damaged" / "4-2"
    assert own.whole() == []
    assert {item.name for item in Store(target).list()} == {*FILES, MANIFEST}


def test_a_run_that_lost_its_lease_changes_nothing(bucket, tmp_path):
    def lost():
        raise StorageError("lost")

    folder = make(tmp_path / "in")
    Steps(bucket.address / "run", own=lambda: None).send(4, folder, None)
    before = Store(bucket.address).list()
    own = steps.Steps(bucket.address / "run", own=lost)
    for work in (
        lambda: own.send(8, folder, None),
        lambda: own.prune(0, None),
        lambda: own.set_aside(4),
    ):
        with pytest.raises(StorageError, match="lost"):
            work()
    assert Store(bucket.address).list() == before
    # Lost while it sends: what is there of it is no checkpoint.
    calls = iter([lambda: None, lost])
    own = steps.Steps(bucket.address / "run", own=lambda: next(calls)())
    with pytest.raises(StorageError, match="lost"):
        own.send(8, folder, None)
    assert own.whole() == [4]


def test_a_full_disk_is_one_line(bucket, tmp_path, monkeypatch):
    from collections import namedtuple

    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(folders.shutil, "disk_usage", lambda path: usage(10, 9, 1))
    with pytest.raises(StorageError, match=r"5.0 GB do not fit on the disk of .* DMPHN_STAGING="):
        folders.free_for(tmp_path / "a" / "b", 5 * 10**9, bucket.address)
