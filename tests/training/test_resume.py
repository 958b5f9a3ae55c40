"""A run that is killed, damaged or changed, and goes on: to the bit, or not at all."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dmphn_jax import main
from dmphn_jax.checkpoints import items
from dmphn_jax.errors import UserError
from tests.support.training import TINY_FLAGS

pytestmark = pytest.mark.usefixtures("compiled_once")
FINAL = 12


def command(workdir, feed, *flags) -> list[str]:
    return [*TINY_FLAGS, f"--config.data.feed={feed}", f"--workdir={workdir}", *flags]


def fingerprint(workdir, step=FINAL) -> dict:
    """Digests of everything a checkpoint holds, and the feed's position."""
    folder = Path(workdir) / "checkpoints" / str(step)
    model, run = (items.read_record(folder, item) for item in ("model", "run"))
    return {"params": model["digest"], "state": run["digest"], "feed": run["feed"]}


def steps(workdir) -> set[int]:
    return {int(p.name) for p in (Path(workdir) / "checkpoints").iterdir() if p.name.isdigit()}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, compiled_once):
    """Work folder per feed of a run of 12 steps with checkpoints 4, 8, 12."""
    folders = {}
    for feed in ("host", "resident"):
        folders[feed] = tmp_path_factory.mktemp(feed)
        assert main.main(command(folders[feed], feed)) == 0
        assert steps(folders[feed]) == {4, 8, FINAL}
    return folders


@pytest.mark.parametrize("feed", ["host", "resident"])
def test_a_killed_run_ends_with_the_same_bits(uninterrupted, feed, tmp_path):
    flags = command(tmp_path, feed)
    process = subprocess.Popen([sys.executable, "-m", "dmphn_jax.main", *flags])
    try:
        while not (tmp_path / "checkpoints" / "4").exists() and process.poll() is None:
            time.sleep(0.01)
    finally:
        process.kill()
        process.wait()
    assert main.main(flags) == 0
    assert fingerprint(tmp_path) == fingerprint(uninterrupted[feed])


def damaged_byte(folder: Path) -> None:
    data = max(folder.glob("d/*"), key=lambda p: p.stat().st_size)
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.write_bytes(content)


def truncated(folder: Path) -> None:
    for data in folder.glob("**/d/*"):
        data.write_bytes(data.read_bytes()[:10])


def nested(record: Path) -> None:
    record.write_text("[" * 100_000)


def changed(record: Path, **fields) -> None:
    record.write_text(json.dumps(json.loads(record.read_text()) | fields))


@pytest.mark.parametrize(
    ("damage", "word"),
    [
        (lambda step: damaged_byte(step / "params"), "damaged"),
        (lambda step: truncated(step / "params"), "params/ cannot be read"),
        (lambda step: truncated(step / "state"), "state/ cannot be read"),
        (lambda step: [shutil.rmtree(step), step.mkdir()], "No such file"),
        (lambda step: nested(step / "run" / "metadata"), "run/metadata: nested too deep"),
        (lambda step: nested(step / "model" / "metadata"), "model/metadata"),
        (lambda step: changed(step / "run" / "metadata", feed={"step": 3}), "its own digest"),
        (lambda step: changed(step / "run" / "metadata", record_digest=1), "its own digest"),
        (lambda step: (step / "run" / "metadata").write_text("{}"), "run/metadata is not whole"),
    ],
    ids=[
        "bit flipped",
        "params truncated",
        "state truncated",
        "empty folder",
        "run nested",
        "model nested",
        "run changed",
        "run's digest changed",
        "run empty",
    ],
)
def test_a_damaged_newest_checkpoint_is_set_aside(uninterrupted, damage, word, tmp_path, capfd):
    feed, folder = "host", uninterrupted["host"]
    work = tmp_path / "run"
    shutil.copytree(folder, work)
    (work / "checkpoints" / "16.orbax-checkpoint-tmp").mkdir()  # a save that was killed
    damage(work / "checkpoints" / str(FINAL))
    capfd.readouterr()
    assert main.main(command(work, feed)) == 0
    said, errors = capfd.readouterr()
    warning = next(line for line in said.splitlines() if line.startswith("warning"))
    assert word in warning
    assert f"moved to {work}/damaged/{FINAL}" in warning
    assert "resumed at step 8" in said
    assert "Traceback" not in errors
    assert "Event loop" not in errors
    assert fingerprint(work) == fingerprint(folder)
    assert [p.name for p in (work / "checkpoints").iterdir() if "tmp" in p.name] == []
    rows = [row.split(",")[0] for row in (work / "metrics.csv").read_text().splitlines()]
    assert rows == ["step", "2", "4", "6", "8", "10", "12"]


def test_a_run_of_before_its_record_had_a_digest_goes_on(uninterrupted, tmp_path, capsys):
    work = tmp_path / "run"
    shutil.copytree(uninterrupted["host"], work)
    record = work / "checkpoints" / str(FINAL) / "run" / "metadata"
    run = json.loads(record.read_text())
    del run["record_digest"]
    record.write_text(json.dumps(run))
    assert main.main(command(work, "host", "--config.num_steps=14")) == 0
    assert f"resumed at step {FINAL}" in capsys.readouterr().out


def test_a_disk_that_takes_no_more_ends_a_run_in_one_line(uninterrupted, tmp_path):
    """A limit on the size of files, which the first checkpoint passes; see `man setrlimit`."""
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000));"
        "from dmphn_jax import main, errors; sys.exit(errors.run_command(main.main, sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, *command(tmp_path / "run", "host")],
        # Compiled programs are read, not written: half of one would be in the way of other tests.
        env={**os.environ, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "1e9"},
        capture_output=True,
        text=True,
    )
    where = f"{tmp_path}/run/checkpoints: a checkpoint cannot be written: File too large"
    assert (done.returncode, done.stderr) == (2, f"dmphn: error: {where}\n")


@pytest.mark.parametrize(
    ("flag", "line"),
    [
        ("--config.model.width=3", "config.model.width = 2, now 3"),
        ("--config.optimizer.decay_epochs=9", "config.optimizer.decay_epochs = 1000, now 9"),
        ("--config.augment=stack", "config.augment = 'none', now 'stack'"),
        ("--config.data.feed=resident", "config.data.feed = 'host', now 'resident'"),
    ],
)
def test_another_runs_settings_are_refused_by_name(uninterrupted, flag, line):
    feed, folder = "host", uninterrupted["host"]
    with pytest.raises(UserError, match=f"holds a run with {line}: resume it .* --workdir"):
        main.main(command(folder, feed, flag))
    assert steps(folder) == {4, 8, FINAL}


def test_a_finished_run_says_so_and_can_be_made_longer(uninterrupted, tmp_path, capsys):
    feed, folder = "host", uninterrupted["host"]
    work = tmp_path / "run"
    shutil.copytree(folder, work)
    assert main.main(command(work, feed)) == 0
    assert "done: step 12 of 12" in capsys.readouterr().out
    assert main.main(command(work, feed, "--config.num_steps=14")) == 0
    assert max(steps(work)) == 14


def test_evaluate_mode_scores_the_runs_checkpoint(uninterrupted):
    folder = uninterrupted["host"]
    flags = ["--mode=evaluate", "--config.eval.count=2", "--config.data.motion=0.5"]
    assert main.main(command(folder, "host", *flags)) == 0
    report = json.loads((folder / "evaluation" / "report.json").read_text())
    blurry, trained = report["rows"]
    assert trained["digest"][:12] == fingerprint(folder)["params"][:12]
    assert blurry["images"] == trained["images"] == 2
    assert trained["psnr"] != blurry["psnr"]
