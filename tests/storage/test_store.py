"""Objects through Google's client: what fails for a moment is tried again, the rest is one line."""

from __future__ import annotations

import sys
import time

import pytest

from dmphn_jax.errors import UserError
from dmphn_jax.storage import Address, local_only, place
from dmphn_jax.storage.store import ChangedError, Item, StorageError, Store


def test_a_place_is_a_path_or_an_address(tmp_path):
    assert place(tmp_path) == tmp_path
    assert place("gs://bucket/run/") == Address("bucket", "run")
    assert place("gs://bucket") == Address("bucket")
    assert str(place("gs://bucket/a/b") / "c") == "gs://bucket/a/b/c"
    assert str(local_only("--x", "a/b")) == "a/b"


@pytest.mark.parametrize("text", ["gs://", "gs:///x", "gs://B/x", "gs://bkt/a//b", "gs://bkt/../a"])
def test_an_address_that_is_none_is_one_line(text):
    with pytest.raises(UserError, match="not an address; gs://BUCKET/FOLDER is one"):
        place(text)


def test_other_schemes_and_places_that_must_be_paths_are_refused():
    with pytest.raises(UserError, match="s3:// is not known"):
        place("s3://bucket/run")
    with pytest.raises(UserError, match="--report gs://bucket/x: a folder of this machine"):
        local_only("--report", "gs://bucket/x")


def test_objects_are_written_on_condition(bucket):
    store = Store(bucket.address / "a")
    first = store.write("x", b"one", generation=0)
    with pytest.raises(ChangedError, match=r"gs://.*/a/x: was written by another"):
        store.write("x", b"two", generation=0)
    second = store.write("x", b"two", generation=first)
    with pytest.raises(ChangedError):
        store.write("x", b"three", generation=first)
    assert store.read("x") == (b"two", second)
    assert store.read("y") is None
    assert [item.name for item in store.list()] == ["x"]
    store.delete("x")
    store.delete("x")
    assert not store.holds_any()


def test_a_write_whose_answer_is_lost_meets_itself(bucket):
    bucket.proxy.fail("lost", method="POST", name="x")
    generation = Store(bucket.address).write("x", b"one", generation=0)
    assert Store(bucket.address).read("x") == (b"one", generation)


@pytest.mark.parametrize("answer", [503, 429, 408, "broken", "lost", "cut"])
def test_what_fails_for_a_moment_is_tried_again(bucket, answer, tmp_path):
    store = Store(bucket.address)
    (tmp_path / "in").write_bytes(b"content" * 1000)
    bucket.proxy.fail(answer, times=2)
    store.upload("x", tmp_path / "in")
    for _ in range(3):  # list, read, download
        bucket.proxy.fail(answer, times=2)
    (item,) = store.list()
    store.download(item, tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == (tmp_path / "in").read_bytes()
    assert all(fault.times == 0 for fault in bucket.proxy.faults[:2])


@pytest.mark.parametrize("answer", [503, "broken"])
def test_a_large_upload_goes_on(bucket, answer, tmp_path):
    """From 8 MiB on it is sent in two requests, the second with the content.

    Not with a lost answer: asked again of an upload that is done, the emulator says 404, where
    Google's service says that it is done.
    """
    (tmp_path / "in").write_bytes(bytes(range(256)) * (9 << 12))
    bucket.proxy.fail(answer, times=2, method="PUT")
    Store(bucket.address).upload("x", tmp_path / "in")
    assert all(not fault.times for fault in bucket.proxy.faults)
    (item,) = Store(bucket.address).list()
    Store(bucket.address).download(item, tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == (tmp_path / "in").read_bytes()


def test_a_slow_store_is_waited_for(bucket):
    bucket.proxy.fail(lambda: time.sleep(0.05), times=2)
    assert Store(bucket.address).list() == []


@pytest.mark.parametrize(
    ("answer", "line"),
    [
        (403, r"permission denied \(403\): the account needs Storage Object User"),
        (401, "no valid credentials .*gcloud auth application-default login"),
        (503, "no answer in time: the store answers 503"),
        (400, "the store answers 400"),
    ],
)
def test_what_does_not_pass_is_one_line(bucket, answer, line, tmp_path):
    store = Store(bucket.address / "run", seconds=0.1)
    (tmp_path / "in").write_bytes(b"x")
    bucket.proxy.fail(answer, times=10**6)
    for work in (
        lambda: store.list(),
        lambda: store.read("x"),
        lambda: store.write("x", b"", generation=0),
        lambda: store.upload("x", tmp_path / "in"),
        lambda: store.delete("x"),
    ):
        with pytest.raises(StorageError, match=rf"^gs://bkt-[0-9a-f]*/run(/x)?: {line}[^\n]*$"):
            work()


def test_no_network_is_one_line(bucket, monkeypatch):
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:9")
    with pytest.raises(
        StorageError, match=r"^gs://bkt-\w*: no answer in time: Connection refused$"
    ):
        Store(bucket.address, seconds=0.1).list()


@pytest.mark.parametrize("text", ["soon", "0", "inf", "-1"])
def test_a_patience_that_is_none_is_one_line(bucket, text, monkeypatch):
    monkeypatch.setenv("DMPHN_STORAGE_SECONDS", text)
    with pytest.raises(UserError, match=f"^DMPHN_STORAGE_SECONDS={text}: a number of seconds"):
        Store(bucket.address).list()


def test_a_missing_bucket_is_one_line(bucket):
    nowhere = Store(Address("bkt-nowhere", "run"))
    for work in (nowhere.list, nowhere.holds_any, lambda: nowhere.write("x", b"", generation=0)):
        with pytest.raises(StorageError, match=r"^gs://bkt-nowhere: no such bucket$"):
            work()


def test_an_object_that_changes_while_it_is_brought_is_one_line(bucket, tmp_path):
    store = Store(bucket.address)
    store.write("x", b"content")
    (item,) = store.list()
    store.write("x", b"another")
    with pytest.raises(StorageError, match="/x: arrived damaged, or has changed"):
        store.download(item, tmp_path / "x")
    store.delete("x")
    with pytest.raises(StorageError, match="/x: is gone"):
        store.download(item, tmp_path / "x")


def test_no_credentials_are_one_line(monkeypatch):
    default = pytest.importorskip("google.auth")
    from google.auth.exceptions import DefaultCredentialsError

    def none(*_, **__):
        raise DefaultCredentialsError("They were not found. Of what follows there is much.")

    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    monkeypatch.setattr(default, "default", none)
    line = r"^gs://bkt/run/x: no valid credentials \(They were not found\): gcloud auth application"
    for work in (Store(Address("bkt", "run")).read, Store(Address("bkt", "run")).has):
        with pytest.raises(StorageError, match=line):
            work("x")


def test_no_client_is_one_line(monkeypatch, tmp_path):
    cloud = pytest.importorskip("google.cloud")
    monkeypatch.setitem(sys.modules, "google.cloud.storage", None)
    monkeypatch.delattr(cloud, "storage", raising=False)
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:1")
    store, item = Store(Address("bkt")), Item("x", 1, "", 1)
    for work in (
        lambda: store.list(),
        lambda: store.holds_any(),
        lambda: store.has("x"),
        lambda: store.read("x"),
        lambda: store.write("x", b""),
        lambda: store.upload("x", tmp_path / "x"),
        lambda: store.download(item, tmp_path / "x"),
        lambda: store.delete("x"),
    ):
        with pytest.raises(UserError, match=r"^gs:// needs .* pip install 'dmphn_jax\[gcs\]'$"):
            work()
