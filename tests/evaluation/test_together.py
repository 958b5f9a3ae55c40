"""An evaluation in several processes that share a folder: one report, as of a single one."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys

import pytest

from dmphn_jax.commands import evaluate as command
from dmphn_jax.errors import UserError, run_command
from dmphn_jax.evaluation import evaluator, results
from dmphn_jax.evaluation.methods import Blurry
from dmphn_jax.evaluation.results import ResultsFile
from dmphn_jax.evaluation.run import EvaluationOptions, evaluate, evaluate_together
from dmphn_jax.evaluation.selection import PairSelection
from dmphn_jax.evaluation.together import FOLDER
from dmphn_jax.processes import sharing
from dmphn_jax.processes.claims import Claims
from dmphn_jax.processes.places import Place
from tests.support.evaluation import Pairs

COUNT = 10
# A process that says what it scores, and stops at its `argv[1]`th pair.
WORKER = """
import sys, time
from dmphn_jax.commands import evaluate
from dmphn_jax.errors import run_command
from dmphn_jax.evaluation import scoring

score, begun = scoring._score, []

def told(*arguments):
    begun.append(1)
    print("scoring", flush=True)
    if len(begun) == int(sys.argv[1]):
        time.sleep(600)
    return score(*arguments)

scoring._score = told
sys.exit(run_command(evaluate.main, sys.argv[2:]))
"""


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(sharing, "PATIENCE", 0)


def share(folder, source, place=Place(0, 2), **options):  # noqa: B008 (frozen)
    pairs = PairSelection("d")
    return evaluate_together(EvaluationOptions(pairs, folder=folder, **options), place, source)


def test_of_three_processes_one_is_killed_and_the_report_is_that_of_one(
    tmp_path, checkpoint, compiled_once, monkeypatch
):
    flags = [str(checkpoint), "--stages", "all", "--data", "synthetic", "--no-timing"]
    flags += ["--synthetic-size", "32x32", "--synthetic-count", str(COUNT)]
    flags += ["--report", "report", "--per-image", "scores.csv"]
    (tmp_path / "alone").mkdir()
    (tmp_path / "several").mkdir()
    monkeypatch.chdir(tmp_path / "alone")
    assert run_command(command.main, flags) == 0
    assert run_command(command.main, flags) == 0  # nothing to score, and so no rate of it

    def start(stop_at, place):
        return subprocess.Popen(
            [sys.executable, "-c", WORKER, str(stop_at), *flags, "--process", place],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path / "several",
            # The first one's programs serve the others.
            env=os.environ | {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"},
        )

    killed = start(3, "0/3")
    for _ in range(3):
        assert killed.stdout.readline() == "scoring\n"
    others = [start(0, f"{i}/3") for i in (1, 2)]
    for other in others:  # all they can take is done
        while "waiting for" not in (line := other.stderr.readline()):
            assert line
    killed.kill()
    killed.wait()
    said = [other.communicate(timeout=60)[0].splitlines() for other in others]
    assert [other.returncode for other in others] == [0, 0]
    # Each pair once, for the input and both depths: two the killed one did and kept.
    assert sum(lines.count("scoring") for lines in said) == 3 * COUNT - 2
    for name in ("report/report.json", "report/report.md", "scores.csv"):
        several = (tmp_path / "several" / name).read_bytes()
        assert several == (tmp_path / "alone" / name).read_bytes()
    assert sorted(os.listdir(tmp_path / "several" / "report")) == [
        *("report.json", "report.md", "results.jsonl")
    ]
    kept = (tmp_path / "several" / "report" / "results.jsonl").read_text().splitlines()
    assert len({json.dumps(json.loads(line)) for line in kept}) == len(kept) == 3 * COUNT


def test_what_others_are_at_work_on_is_said_and_no_report_written(tmp_path, impatient, capsys):
    source = Pairs()
    with Claims(tmp_path / FOLDER, "process 1 of 2") as other:
        key = key_of_blurry(tmp_path, source)
        assert other.take(f"{key}/{source.names[2]}")
        assert share(tmp_path, source) == (None, False)
        said = capsys.readouterr().err
        assert "process 0 of 2 has nothing left to do: 1 with process 1 of 2 (pid" in said
        assert not (tmp_path / "report.json").exists()
    source.read.clear()
    # The next one does what is missing only, whether alone or one of others.
    made = evaluate(EvaluationOptions(PairSelection("d"), folder=tmp_path), source)
    assert source.read == [2]
    assert made.rows[0].images == 5


def key_of_blurry(folder, source):
    """The key under which the blurry input's scores are kept."""
    options = EvaluationOptions(PairSelection("d"), folder=folder / "elsewhere")
    evaluate(options, source)
    lines = (folder / "elsewhere" / "results.jsonl").read_text().splitlines()
    return json.loads(lines[0])["key"]


def test_sigterm_leaves_the_rest(tmp_path, monkeypatch, capsys):
    submit, source, calls = Blurry.submit, Pairs(), []

    def third_is_terminated(self, images):
        calls.append(images)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return submit(self, images)

    monkeypatch.setattr(Blurry, "submit", third_is_terminated)
    with pytest.raises(SystemExit) as ending:
        share(tmp_path, source, batch_size=1)
    assert ending.value.code == os.EX_TEMPFAIL
    source.read.clear()
    made, _ = share(tmp_path, source, Place(1, 2), batch_size=1)
    assert sorted(source.read) == [2, 3, 4]
    assert made.rows[0].images == 5
    assert sorted(os.listdir(tmp_path)) == ["report.json", "report.md", "results.jsonl"]


def test_a_pair_that_fails_is_told_once_and_counted_in_the_report(tmp_path, capsys):
    source = Pairs(bad=[1])
    made, failed = share(tmp_path, source)
    assert failed
    assert capsys.readouterr().err.count("000001.png: damaged") == 1
    assert (made.rows[0].images, made.rows[0].failed) == (4, 1)


def test_one_process_measures_the_time(tmp_path, checkpoint, monkeypatch):
    source, times = Pairs(), []
    monkeypatch.setattr(
        evaluator, "measure_runtime", lambda method, size: times.append(size) or 5.0
    )
    made, _ = share(tmp_path, source, checkpoints=(str(checkpoint),))
    assert made.rows[1].runtime.ms == 5.0
    again, _ = share(tmp_path, source, Place(1, 2), checkpoints=(str(checkpoint),))
    assert again.rows[1].runtime.ms == 5.0
    assert times == [(24, 32)]


def test_a_lone_evaluation_keeps_out_of_a_shared_folder(tmp_path):
    first = ResultsFile(tmp_path / "results.jsonl", shared=True)
    second = ResultsFile(tmp_path / "results.jsonl", shared=True)
    with pytest.raises(UserError, match="another evaluation is writing it"):
        ResultsFile(tmp_path / "results.jsonl")
    first.join()  # not while the other is there
    first.close()
    second.join()
    second.close()
    ResultsFile(tmp_path / "results.jsonl").close()


def test_a_folder_without_locks_is_joined(tmp_path, monkeypatch):
    def none(*_):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(results.fcntl, "flock", none)
    file = ResultsFile(tmp_path / "results.jsonl", shared=True)
    file.join()
    file.close()


def test_several_processes_need_a_folder():
    with pytest.raises(UserError, match="--report FOLDER is needed"):
        share(None, Pairs())


@pytest.mark.parametrize(
    "flag",
    [["--process", "0/2"], ["--process=0/2"], ["--proc", "0/2", "--process", "1/2"]],
)
def test_the_command_of_the_report_is_the_same_for_all(flag):
    assert command._without_place(["a", *flag, "--limit", "3"]) == ["a", "--limit", "3"]
