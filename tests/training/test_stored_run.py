"""A run whose work folder is in a bucket: what a disk promises, through whatever fails."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading

import pytest

from dmphn_jax import main
from dmphn_jax.checkpoints import items
from dmphn_jax.commands import status as status_command
from dmphn_jax.distributed import TRY_AGAIN
from dmphn_jax.errors import UserError
from dmphn_jax.storage import lease, mirror
from dmphn_jax.storage.lease import Rhythm
from dmphn_jax.storage.steps import Steps
from dmphn_jax.storage.store import Store
from dmphn_jax.training import work_folder
from dmphn_jax.training.lock import Lock
from tests.support.object_store import wait_for
from tests.support.training import TINY_FLAGS

pytestmark = pytest.mark.usefixtures("compiled_once")
FINAL = 12


@pytest.fixture(scope="module")
def local(tmp_path_factory, compiled_once):
    """The work folder, on a disk, of a run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("local")
    assert main.main([*TINY_FLAGS, f"--workdir={folder}"]) == 0
    return folder


@pytest.fixture
def run(bucket, monkeypatch):
    """The address of a run, whose lease is a quick one."""
    monkeypatch.setattr(lease, "RHYTHM", Rhythm(beat=0.05, patience=1.0))
    return bucket.address / "runs" / "x"


def start(run, *flags) -> int:
    return main.main([*TINY_FLAGS, f"--workdir={run}", *flags])


def steps(run) -> list[int]:
    return Steps(run / "checkpoints", own=lambda: None).whole()


def fingerprint(folder) -> dict:
    """Digests of everything the last checkpoint holds, and the feed's position."""
    model, record = (items.read_record(folder, item) for item in ("model", "run"))
    return {"params": model["digest"], "state": record["digest"], "feed": record["feed"]}


def stored_fingerprint(run, folder) -> dict:
    Steps(run / "checkpoints", own=lambda: None).bring(FINAL, folder)
    return fingerprint(folder)


def rows(text: str) -> list[str]:
    """Rows of metrics.csv without the speed and what depends on it."""
    lines = [line.split(",") for line in text.splitlines()]
    speed = lines[0].index("images_per_second")
    return [",".join(line[:speed]) for line in lines]


def test_a_run_in_a_bucket_is_one_on_a_disk(run, local, tmp_path, capsys):
    assert start(run) == 0
    said = capsys.readouterr().out
    assert f"done: step 12 of 12; checkpoint {run}/checkpoints/12" in said
    assert "warning" not in said
    assert steps(run) == [12, 8, 4]
    assert stored_fingerprint(run, tmp_path / "12") == fingerprint(local / "checkpoints" / "12")
    names = {item.name for item in Store(run).list()}
    assert {"metrics.csv", "config.json", "model.txt", "status.json"} <= names
    assert "lock" not in names
    assert any(name.startswith("tensorboard/events") for name in names)
    text = Store(run).read("metrics.csv").data.decode()
    assert rows(text) == rows((local / "metrics.csv").read_text())
    assert status_command.main([str(run)]) == 0
    assert "finished: step 12 of 12" in capsys.readouterr().out
    # Copied to a disk, as by `gcloud storage cp`, it goes on there.
    for item in Store(run).list():
        (tmp_path / "copy" / item.name).parent.mkdir(parents=True, exist_ok=True)
        Store(run).download(item, tmp_path / "copy" / item.name)
    assert main.main([*TINY_FLAGS, f"--workdir={tmp_path / 'copy'}", "--config.num_steps=14"]) == 0
    assert "resumed at step 12" in capsys.readouterr().out


def kill_at(run, bucket, *, step: int, nth: int) -> None:
    """Runs in a process of its own, killed before the n-th change of a step's objects."""
    flags = [*TINY_FLAGS, f"--workdir={run}"]
    process = subprocess.Popen([sys.executable, "-m", "dmphn_jax.main", *flags])
    left = [nth]

    def kill():
        left[0] -= 1
        if left[0] == 0:
            process.kill()
            process.wait()

    bucket.proxy.fail(kill, times=10**6, method="POST", name=f"checkpoints/{step}/")
    process.wait()
    bucket.proxy.faults.clear()
    assert process.returncode == -9


@pytest.mark.parametrize(("nth", "elsewhere"), [(2, True), (9, False)])
def test_a_run_killed_in_a_save_ends_with_the_same_bits(
    run, bucket, local, nth, elsewhere, tmp_path, monkeypatch, capsys
):
    kill_at(run, bucket, step=8, nth=nth)
    assert steps(run) == [4]
    if elsewhere:  # on a machine that has nothing of the first one's disk
        monkeypatch.setenv("DMPHN_STAGING", str(tmp_path / "other"))
    assert start(run) == 0
    said = capsys.readouterr().out
    assert ("is gone; taken over" in said) == elsewhere
    assert "resumed at step 4" in said
    assert steps(run) == [12, 8, 4]
    assert stored_fingerprint(run, tmp_path / "12") == fingerprint(local / "checkpoints" / "12")
    text = Store(run).read("metrics.csv").data.decode()
    assert [row.split(",")[0] for row in rows(text)] == ["step", "2", "4", "6", "8", "10", "12"]


@pytest.fixture
def finished(run, local):
    """The address of a finished run."""
    own = Steps(run / "checkpoints", own=lambda: None)
    for step in (4, 8, FINAL):
        own.send(step, local / "checkpoints" / str(step), None)
    for name in ("metrics.csv", "status.json"):
        Store(run).upload(name, local / name)
    return run


def tree_of_arrays(store: Store) -> str:
    """The file by which every array is found. Of others some bytes are of trees no one reads."""
    return max(store.list("params/d/"), key=lambda item: item.size).name


def flipped(store: Store) -> None:
    name = tree_of_arrays(store)
    data = bytearray(store.read(name).data)
    data[len(data) // 2] ^= 1
    store.write(name, bytes(data))


def copied(store: Store) -> None:
    """Makes it one that was copied there without a manifest, and damages it."""
    store.delete("MANIFEST.json")
    flipped(store)


@pytest.mark.parametrize(
    ("damage", "word"),
    [
        (lambda store: store.delete(tree_of_arrays(store)), "is missing"),
        (flipped, "is not what was sent"),
        (copied, "damaged"),
    ],
    ids=["missing", "bit flipped", "copied, bit flipped"],
)
def test_a_damaged_newest_checkpoint_is_set_aside(finished, local, damage, word, tmp_path, capfd):
    damage(Store(finished / "checkpoints" / str(FINAL)))
    assert start(finished) == 0
    said, errors = capfd.readouterr()
    warning = next(line for line in said.splitlines() if line.startswith("warning"))
    assert warning.startswith(f"warning: {finished}/checkpoints/12: damaged: ")
    assert word in warning
    assert warning.endswith(f"moved to {finished}/damaged/12")
    assert Store(finished / "damaged" / "12").holds_any()
    assert "resumed at step 8" in said
    assert "Traceback" not in errors
    assert steps(finished) == [12, 8, 4]
    end = stored_fingerprint(finished, tmp_path / "12")
    assert end == fingerprint(local / "checkpoints" / "12")


def test_a_run_copied_there_goes_on(run, local, tmp_path, capsys):
    """As by `gcloud storage cp`, without manifests."""
    for file in (local / "checkpoints").rglob("*"):
        if file.is_file():
            Store(run / "checkpoints").upload(str(file.relative_to(local / "checkpoints")), file)
    assert start(run, "--config.num_steps=14") == 0
    assert "resumed at step 12" in capsys.readouterr().out
    assert steps(run) == [14, 12, 8]
    with pytest.raises(UserError, match=f"{run} holds a run with config.model.width = 2, now 3"):
        start(run, "--config.model.width=3")


def test_a_second_run_is_refused_and_changes_nothing(finished, tmp_path, monkeypatch):
    first = lease.Lease(finished, tmp_path / "token")
    before = [item for item in Store(finished).list() if item.name != "lock"]
    with pytest.raises(UserError, match=rf"^{finished}: another run is at work there \(process"):
        start(finished)
    first.release()
    # On the same machine the copy's lock tells at once.
    held = Lock(work_folder.files_of(finished))
    with pytest.raises(UserError, match=rf"^{finished}: another run is at work there \(process"):
        start(finished)
    held.release()
    assert Store(finished).list() == before


def test_a_run_that_was_taken_over_ends_and_sends_nothing(run, bucket, capsys):
    """Out of reach for as long as another one's patience: here its lease simply changes."""

    def taken():
        Store(run).write("lock", b'{"owner": "x", "process": 7, "host": "elsewhere"}')
        # It learns so at its next beat, and renews no more.
        wait_for(lambda: all(thread.name != "lease" for thread in threading.enumerate()))

    bucket.proxy.fail(taken, method="POST", name="checkpoints/8/params")
    with pytest.raises(
        UserError, match=r"another run has taken it over \(process 7 on elsewhere\)"
    ):
        start(run)
    assert steps(run) == [4]
    assert Store(run).read("lock").data.startswith(b'{"owner": "x"')


def test_a_stopped_run_sends_its_checkpoint_before_its_logs(run, bucket, monkeypatch, capsys):
    """A machine that is taken away leaves half a minute, and a log may not go through."""
    stopped = threading.Event()

    def stop():
        if not stopped.is_set():
            stopped.set()
            os.kill(os.getpid(), signal.SIGTERM)

    seen = []  # the steps that are whole whenever a log is sent after the signal
    bucket.proxy.fail(stop, method="POST", name="checkpoints/4/params")
    logs = lambda: stopped.is_set() and seen.append(steps(run))  # noqa: E731
    bucket.proxy.fail(logs, times=10**6, method="POST", name="metrics.csv")
    monkeypatch.setattr(mirror, "INTERVAL", 1e6)
    flags = ["--config.num_steps=100000", "--config.log_every=1"]
    assert start(run, *flags) == TRY_AGAIN
    bucket.proxy.faults.clear()
    said = capsys.readouterr().out
    last = int(re.search(r"SIGTERM at step (\d+): saved", said)[1])
    assert seen[0] == [4]
    assert seen[-1][0] == last
    text = Store(run).read("metrics.csv").data.decode()
    assert rows(text)[-1].startswith(f"{last},")
    assert json.loads(Store(run).read("status.json").data)["state"] == "stopped"


def test_logs_that_cannot_be_sent_are_one_line_and_stop_nothing(run, bucket, monkeypatch, capsys):
    monkeypatch.setattr(mirror, "_SECONDS", 0.05)
    bucket.proxy.fail(503, times=10**6, method="POST", name="config.json")
    assert start(run) == 0
    said = capsys.readouterr().out
    warnings = [line for line in said.splitlines() if line.startswith("warning")]
    assert len(warnings) == 1
    assert "x/config.json: no answer in time: the store answers 503; it stays in" in warnings[0]
    assert steps(run) == [12, 8, 4]


def test_logs_that_could_not_be_sent_are_sent_later(run, bucket, monkeypatch, capsys):
    monkeypatch.setattr(mirror, "_SECONDS", 0.05)
    bucket.proxy.fail(403, times=2, method="POST", name="metrics.csv")
    assert start(run) == 0
    assert capsys.readouterr().out.count("warning: the run's log cannot be sent") == 1
    assert Store(run).read("metrics.csv").data.decode().splitlines()[-1].startswith("12,")


def test_a_save_that_fails_ends_the_run_in_one_line(run, bucket):
    bucket.proxy.fail(403, times=10**6, method="POST", name="checkpoints/8/params")
    where = rf"^{run}/checkpoints: a checkpoint cannot be written: gs://\S*/8/params/\S*: "
    with pytest.raises(UserError, match=f"{where}permission denied"):
        start(run)
    bucket.proxy.faults.clear()
    fields = json.loads(Store(run).read("status.json").data)
    assert fields["state"] == "failed"
    assert "a checkpoint cannot be written" in fields["error"]
    assert steps(run) == [4]
    assert start(run) == 0
    assert steps(run) == [12, 8, 4]


def test_a_store_that_fails_for_a_moment_stops_nothing(run, bucket, local, tmp_path, capsys):
    for answer in (503, "lost", "cut"):
        for method in ("POST", "GET"):
            bucket.proxy.fail(answer, times=2, method=method, name="checkpoints/")
    assert start(run) == 0
    assert "warning" not in capsys.readouterr().out
    assert stored_fingerprint(run, tmp_path / "12") == fingerprint(local / "checkpoints" / "12")


@pytest.mark.parametrize(
    ("place", "fault", "line"),
    [
        ("gs://bkt-nowhere/x", None, "^gs://bkt-nowhere: no such bucket$"),
        (None, 403, r"^gs://bkt-\w*/runs/x/lock: permission denied \(403\): the account needs "),
        (None, 503, r"^gs://bkt-\w*/runs/x/lock: no answer in time: the store answers 503"),
    ],
)
def test_a_folder_that_cannot_be_reached_is_one_line_at_the_start(run, bucket, place, fault, line):
    if fault:
        bucket.proxy.fail(fault, times=10**6)
    with pytest.raises(UserError, match=line):
        start(place or run)


def test_the_best_is_kept_and_scored(run, capsys):
    flags = ["--config.eval.every=4", "--config.eval.count=2", "--config.keep_checkpoints=1"]
    assert start(run, *flags) == 0
    kept = steps(run)
    assert FINAL in kept
    assert len(kept) <= 2
    assert start(run, *flags, "--mode=evaluate") == 0
    report = json.loads(Store(run).read("evaluation/report.json").data)
    assert [row["images"] for row in report["rows"]] == [2, 2]
    # A second one goes on with what the first has kept.
    before = {item.name: item.generation for item in Store(run).list("evaluation/")}
    assert start(run, *flags, "--mode=evaluate") == 0
    assert {item.name for item in Store(run).list("evaluation/")} == before.keys()


@pytest.mark.parametrize(("silence", "health"), [(0, "ok"), (1e6, "killed"), (None, "killed")])
def test_status_goes_by_the_lease(finished, silence, health, capsys):
    import time

    fields = json.loads(Store(finished).read("status.json").data)
    fields |= {"state": "training", "updated": time.time(), "stale_at": time.time() + 600}
    Store(finished).write("status.json", json.dumps(fields).encode())
    if silence is not None:
        owner = {"owner": "x", "process": 1, "host": "h", "renewed": time.time() - silence}
        Store(finished).write("lock", json.dumps(owner).encode())
    assert status_command.main([str(finished)]) == (0 if health == "ok" else 1)
    assert f"health: {health}" in capsys.readouterr().out


def test_status_of_no_run_is_one_line(bucket):
    with pytest.raises(UserError, match=r"^gs://bkt-\w*/x/status.json: no such file; is gs://"):
        status_command.main([str(bucket.address / "x")])


def test_another_run_begins_with_its_weights(finished, tmp_path, capsys):
    flags = [*TINY_FLAGS, f"--workdir={tmp_path}/new", "--config.num_steps=2"]
    assert main.main([*flags, f"--config.init_from={finished}/checkpoints/8"]) == 0
    assert f"weights: {finished}/checkpoints/8 (dmphn_1)" in capsys.readouterr().out
