"""This machine's copies of data and checkpoints in a bucket."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dmphn_jax import checkpoints, cli, storage
from dmphn_jax.data import SourceOptions, open_source
from dmphn_jax.errors import UserError, run_command
from dmphn_jax.storage import folders
from dmphn_jax.storage.steps import Steps
from dmphn_jax.storage.store import StorageError, Store
from tests.support import data_tree
from tests.support.evaluation import save_tiny
from tests.support.pictures import SHAPE, noise, pixels, saved
from tfds_gopro.builders import Gopro, pair_config


def upload(folder: Path, address) -> None:
    """As by `gcloud storage cp --recursive`."""
    for file in folder.rglob("*"):
        if file.is_file():
            Store(address).upload(str(file.relative_to(folder)), file)


def brought(bucket) -> list[str]:
    names = [r.name for r in bucket.proxy.requests if "download" in r.path]
    bucket.proxy.requests.clear()
    return names


@pytest.fixture
def data(bucket):
    """The address of a folder with two files."""
    address = bucket.address / "data"
    Store(address).write("a/x", b"12345")
    Store(address).write("y", b"678")
    return address


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return Path(save_tiny(tmp_path_factory.mktemp("checkpoints") / "tiny"))


def test_a_path_is_its_own_copy(tmp_path):
    assert storage.staged(tmp_path) == tmp_path


def test_data_are_brought_once_and_said(data, bucket, capfd):
    folder = storage.staged(data)
    said = capfd.readouterr().err
    assert said == f"dmphn: note: {data}: 2 files, 1 kB, are copied to {folder}\n"
    assert (folder / "a" / "x").read_bytes() == b"12345"
    bucket.proxy.requests.clear()
    assert storage.staged(data) == folder
    assert brought(bucket) == []
    assert capfd.readouterr().err == ""


def test_what_changed_on_either_side_is_brought_anew(data, bucket, capfd):
    folder = storage.staged(data)
    brought(bucket)
    Store(data).write("y", b"876")  # the same size
    Store(data).write("z", b"new")
    Store(data).delete("a/x")
    capfd.readouterr()
    storage.staged(data)
    assert "2 files, 1 kB, are copied" in capfd.readouterr().err
    assert sorted(brought(bucket)) == ["data/y", "data/z"]
    assert not (folder / "a" / "x").exists()
    assert (folder / "y").read_bytes() == b"876"
    (folder / "y").write_bytes(b"87")  # by a full disk, say
    (folder / "z").write_bytes(b"bad")
    storage.staged(data)
    assert "are copied" in capfd.readouterr().err
    assert ((folder / "y").read_bytes(), (folder / "z").read_bytes()) == (b"876", b"new")


def test_a_stager_that_was_killed_or_failed_goes_on(data, bucket):
    bucket.proxy.fail(403, name="y")
    with pytest.raises(StorageError, match="data/y: permission denied"):
        storage.staged(data)
    brought(bucket)
    folder = storage.staged(data)
    assert brought(bucket) == ["data/y"]
    (folder / f".y{folders.PART}").write_bytes(b"6")  # of a kill
    storage.staged(data)
    assert sorted(p.name for p in folder.iterdir()) == ["a", "y"]


def test_what_could_not_be_brought_is_not_taken_for_the_new_content(data, bucket):
    folder = storage.staged(data)
    Store(data).write("y", b"876")  # of the same size
    bucket.proxy.fail(403, name="y")
    with pytest.raises(StorageError, match="data/y: permission denied"):
        storage.staged(data)
    assert storage.staged(data) == folder
    assert (folder / "y").read_bytes() == b"876"


def test_no_data_and_no_room_are_one_line(data, bucket, monkeypatch, tmp_path):
    with pytest.raises(StorageError, match=r"^gs://.*/nothing: no such folder of data$"):
        storage.staged(bucket.address / "nothing")
    (tmp_path / "file").touch()
    monkeypatch.setenv("DMPHN_STAGING", str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"data: no place for a copy here: .*DMPHN_STAGING=FOLDER"):
        storage.staged(data)


@pytest.mark.parametrize("name", ["../x", "a//b", "a/./b"])
def test_names_that_would_leave_the_folder_are_refused(name, monkeypatch):
    from types import SimpleNamespace

    from dmphn_jax.storage import store

    blob = SimpleNamespace(name=f"data/{name}", size=1, crc32c="", generation=1)
    client = SimpleNamespace(list_blobs=lambda *_, **__: [blob])
    monkeypatch.setattr(store, "_client", lambda *_: client)
    with pytest.raises(StorageError, match="an object is called"):
        Store(storage.Address("bkt", "data")).list()


def test_of_several_processes_one_brings_the_data(data, bucket, capfd):
    brought(bucket)
    code = "import sys; from dmphn_jax.storage import place, staged; staged(place(sys.argv[1]))"
    command = [sys.executable, "-c", code, str(data)]
    processes = [subprocess.Popen(command) for _ in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    assert sorted(brought(bucket)) == ["data/a/x", "data/y"]
    assert capfd.readouterr().err.count("are copied") == 1


def test_prepared_data_of_a_bucket_are_those_of_a_disk(bucket, tmp_path, capfd):
    tree = tmp_path / "GOPRO_Large"
    data_tree.gopro_tree(tree, train=2, test=1)
    for config in (pair_config(), pair_config("crops", size=(64, 64), stride=32)):
        Gopro(
            data_dir=tmp_path / "D",
            config=config,
            source=tree,
            allow_partial=True,
            progress=False,
        ).download_and_prepare()
    upload(tmp_path / "D", bucket.address / "D")
    upload(tree, bucket.address / "tree")
    capfd.readouterr()
    for name, given in (("gopro", "D"), ("folder", "tree")):
        for split in ("train", "test"):
            options = SourceOptions(data_dir=f"{bucket.address}/{given}")
            there = open_source(name, split, options)
            here = open_source(
                name,
                split,
                SourceOptions(data_dir=tmp_path / ("D" if given == "D" else "GOPRO_Large")),
            )
            assert type(there) is type(here)
            assert list(there.names) == list(here.names)
            if hasattr(here, "crop"):
                pairs = zip(there.crop(1, 3, 5, 32), here.crop(1, 3, 5, 32))
            else:
                pairs = zip(there[0][:2], here[0][:2])
            for a, b in pairs:
                np.testing.assert_array_equal(a, b)
    said = capfd.readouterr().err
    # Only what is read is brought: tiles to train, frames to test.
    assert f"{bucket.address}/D/gopro/crops" in said
    assert f"{bucket.address}/D/gopro/frames" in said
    with pytest.raises(UserError, match=r"gopro is not prepared in gs://.*/E \(no frames\)"):
        open_source("gopro", "test", SourceOptions(data_dir=f"{bucket.address}/E"))
    with pytest.raises(UserError, match=r"data_dir=gs://.*/E: no such folder of pairs"):
        open_source("folder", "test", SourceOptions(data_dir=f"{bucket.address}/E"))


def run(*arguments, capfd) -> tuple[int, str]:
    status = run_command(cli.main, [str(argument) for argument in arguments])
    out, err = capfd.readouterr()
    assert "Traceback" not in err
    return status, out + err


def test_commands_take_the_checkpoints_of_a_bucket(bucket, checkpoint, tmp_path, capfd):
    photo = saved(tmp_path / "x.png", noise(*SHAPE, 3))
    run_folder = bucket.address / "run"
    Steps(run_folder / "checkpoints", own=lambda: None).send(4, checkpoint, None)
    upload(checkpoint, bucket.address / "copied")
    given = [checkpoint, run_folder, run_folder / "checkpoints" / "4", bucket.address / "copied"]
    for number, place in enumerate(given):
        out = tmp_path / f"{number}.png"
        status, said = run("deblur", photo, "-c", place, "-o", out, capfd=capfd)
        assert status == 0, said
        np.testing.assert_array_equal(pixels(out), pixels(tmp_path / "0.png"))
    brought(bucket)
    assert run("deblur", photo, "-c", run_folder, "-o", tmp_path / "9.png", capfd=capfd)[0] == 0
    assert all(name.endswith("MANIFEST.json") for name in brought(bucket))
    flags = ["--data", "synthetic", "--synthetic-count", 1, "--synthetic-size", "32x40"]
    status, said = run("evaluate", run_folder, *flags, "--no-timing", capfd=capfd)
    assert status == 0, said
    status, said = run(
        "deblur", photo, "-c", bucket.address / "no", "-o", tmp_path / "8.png", capfd=capfd
    )
    assert status == 2
    assert f"{bucket.address}/no: no such checkpoint, nor a run's folder with one" in said


def test_a_damaged_or_unfinished_checkpoint_of_a_bucket_is_one_line(bucket, checkpoint):
    folders.send(checkpoint, bucket.address / "x", {})
    copied = bucket.address / "copied"
    upload(checkpoint, copied)
    for address in (bucket.address / "x", copied):
        store = Store(address)
        name = max(store.list("params/d/"), key=lambda item: item.size).name
        data = bytearray(store.read(name).data)
        data[len(data) // 2] ^= 1
        store.write(name, bytes(data))
        with pytest.raises(UserError, match="damaged: "):
            checkpoints.load(str(address))
    Store(copied).write(folders.UNFINISHED, b"")
    with pytest.raises(UserError, match="copied: is not whole: being sent, or broken off in it"):
        checkpoints.load(str(copied))


def test_convert_writes_to_a_bucket(bucket, tmp_path, capfd):
    from tests.checkpoints.torch.weights import assert_same_bits, make_files

    params, _ = make_files(tmp_path / "w", "dmphn_1_2")
    target = bucket.address / "converted"
    assert run("convert", tmp_path / "w", target, capfd=capfd)[0] == 0
    assert_same_bits(checkpoints.load(str(target)).params, params)
    status, said = run("convert", tmp_path / "w", target, capfd=capfd)
    assert status == 2
    assert f"{target}: exists; name another folder, or replace it (--overwrite)" in said
    assert run("convert", tmp_path / "w", target, "--overwrite", capfd=capfd)[0] == 0
    status, said = run("convert", "--to-torch", target, bucket.address / "back", capfd=capfd)
    assert status == 2
    assert "DST_DIR gs://" in said


def test_a_checkpoint_that_is_replaced_stays_until_the_new_one_is_whole(bucket, checkpoint):
    target = bucket.address / "converted"

    def make(overwrite: bool) -> None:
        with storage.outgoing(target, overwrite=overwrite) as folder:
            shutil.copytree(checkpoint, folder)

    # A first one that was broken off is in nobody's way.
    bucket.proxy.fail(403, method="POST", name="_METADATA")
    with pytest.raises(StorageError):
        make(overwrite=False)
    assert not folders.manifest(target)
    make(overwrite=False)
    digest = checkpoints.load(str(target)).digest
    # One that takes its place is sent beside it first.
    bucket.proxy.fail(403, method="POST", name="_METADATA")
    with pytest.raises(StorageError):
        make(overwrite=True)
    assert checkpoints.load(str(target)).digest == digest
    make(overwrite=True)
    assert checkpoints.load(str(target)).digest == digest
    assert not Store(bucket.address / "converted.sending").holds_any()
    with pytest.raises(UserError, match="exists; name another folder"):
        make(overwrite=False)


def test_results_are_sent_by_the_next_use_if_not_by_this_one(bucket, capfd):
    where = bucket.address / "run/evaluation"
    with storage.synced(where) as folder:
        (folder / "results.jsonl").write_text("1\n")
    assert Store(where).read("results.jsonl").data == b"1\n"
    # A network that is gone keeps them here, and does not hide why the work ended.
    bucket.proxy.fail(403, times=10**6, method="POST")

    def stopped():
        with storage.synced(where) as folder:
            (folder / "results.jsonl").write_text("1\n2\n")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert f"{folder} keeps the results" in capfd.readouterr().err
    with pytest.raises(StorageError, match="permission denied"), storage.synced(where) as folder:
        assert (folder / "results.jsonl").read_text() == "1\n2\n"
    bucket.proxy.faults.clear()
    (folder / f".results.jsonl{folders.PART}").touch()  # of a start that was killed as it came
    with storage.synced(where) as folder:
        pass
    assert Store(where).read("results.jsonl").data == b"1\n2\n"
    assert [item.name for item in Store(where).list()] == ["results.jsonl"]
    # What another machine has written since is what goes on; what is gone there is gone.
    Store(where).write("results.jsonl", b"3\n")
    with storage.synced(where) as folder:
        assert (folder / "results.jsonl").read_text() == "3\n"
    Store(where).delete("results.jsonl")
    with storage.synced(where) as folder:
        assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ("deblur", "x.png", "-c", "stack4", "-o", "gs://bkt/out"),
        ("deblur", "gs://bkt/in", "-c", "stack4", "-o", "out"),
        ("evaluate", "--data", "synthetic", "--report", "gs://bkt/out"),
        ("evaluate", "--data", "synthetic", "--save-images", "gs://bkt/out"),
        ("evaluate", "--data", "synthetic", "--per-image", "gs://bkt/out.csv"),
        ("make-pairs", "x.mp4", "-o", "gs://bkt/out"),
        ("benchmark", "--out", "gs://bkt/out"),
        ("plot", "r", "--output", "gs://bkt/a.png"),
        ("plan", "--model", "stack4", "--devices", "v5e", "--json", "gs://bkt/a.json"),
        ("demo", "--output", "gs://bkt/demo"),
    ],
)
def test_what_must_be_a_folder_here_says_so(arguments, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    status, said = run(*arguments, capfd=capfd)
    assert status == 2
    assert ": a folder of this machine is needed here" in said
    assert os.listdir(tmp_path) == []
