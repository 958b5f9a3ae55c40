import dataclasses
import json
import os
import signal

import pytest

from dmphn_jax.data import SourceOptions
from dmphn_jax.errors import UserError
from dmphn_jax.evaluation import results
from dmphn_jax.evaluation.methods import Blurry
from dmphn_jax.evaluation.results import ResultsFile
from dmphn_jax.evaluation.run import EvaluationOptions, evaluate
from dmphn_jax.evaluation.selection import PairSelection
from tests.support.evaluation import SIZE, Pairs


def run(folder, source, *, pairs=PairSelection("d"), **options):  # noqa: B008 (frozen)
    return evaluate(EvaluationOptions(pairs, folder=folder, **options), source)


def test_a_stopped_run_goes_on(tmp_path, capsys):
    source = Pairs([SIZE] * 8)

    class Stopped(Pairs):
        def __getitem__(self, index):
            if index == 5:
                raise KeyboardInterrupt
            return super().__getitem__(index)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, Stopped(source.sizes), batch_size=1)
    lines = (tmp_path / "results.jsonl").read_text().splitlines()
    assert len(lines) == 5
    assert "the same command goes on" in capsys.readouterr().err

    made = run(tmp_path, source, batch_size=1)
    assert sorted(source.read) == [5, 6, 7]
    assert not made.failed
    fresh = run(tmp_path / "fresh", source)
    assert made.rows[0].mean == pytest.approx(fresh.rows[0].mean)


@pytest.mark.parametrize("damage", ["cut", "garbage", "cut in a line before"])
def test_damaged_lines_are_scored_again(tmp_path, damage, capsys):
    source = Pairs()
    run(tmp_path, source)
    file = tmp_path / "results.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    if damage == "cut":
        file.write_bytes(b"".join(lines)[:-20])
        again = [4]
    elif damage == "garbage":
        file.write_bytes(b"".join(lines) + b'{"key": "\xff\x00')
        again = []
    else:
        file.write_bytes(b"".join([lines[0], lines[1][:30] + b"\n", *lines[2:]]))
        again = [1]
    source.read.clear()
    made = run(tmp_path, source)
    assert source.read == again
    assert "1 unreadable lines" in capsys.readouterr().err
    assert made.rows[0].images == 5
    source.read.clear()
    run(tmp_path, source)  # the file is sound again
    assert source.read == []
    assert all(json.loads(line) for line in file.read_bytes().splitlines()[2:])


def test_results_are_kept_apart_by_what_they_depend_on(tmp_path, checkpoint):
    source = Pairs((SIZE,) * 2)
    run(tmp_path, source)  # the blurry input

    def read_by(**options):
        source.read.clear()
        made = run(tmp_path, source, checkpoints=(str(checkpoint),), timing=False, **options)
        return len(source.read), made.rows[1].label

    assert read_by()[0] == 2
    assert read_by()[0] == 0
    count, label = read_by(stages=1)
    assert count == 2
    assert "first 1 of 2 stages" in label
    assert read_by()[0] == 0
    source.names = [f"other/{i}" for i in range(2)]
    assert read_by()[0] == 4  # the blurry input's too


def test_unwritable_folder_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/results.jsonl: cannot be written"):
        ResultsFile(tmp_path / "file" / "results.jsonl")


def test_options_of_the_data_are_part_of_the_key(tmp_path):
    def read_by(**options):
        source = Pairs()
        pairs = PairSelection("gopro", options=SourceOptions(**options), limit=2)
        run(tmp_path, source, pairs=pairs)
        (tmp_path / "report.json").unlink()  # which would refuse other pairs
        return sorted(source.read)

    assert read_by() == [0, 2]
    assert read_by() == []
    assert read_by(blur="blur_gamma") == [0, 2]
    assert read_by(data_dir="elsewhere") == []  # the same data may have moved


# --- what stands in the folder already ---


def test_scores_of_another_version_of_the_metrics_are_taken_anew(tmp_path, monkeypatch):
    source = Pairs()
    run(tmp_path, source)
    file = tmp_path / "results.jsonl"
    records = [json.loads(line) for line in file.read_text().splitlines()]
    for record in records[:2]:  # as written before the version was kept: it was the first
        del record["metrics"]
    records[2]["metrics"] = 99
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    source.read.clear()
    run(tmp_path, source)
    assert source.read == [2]

    monkeypatch.setattr(results, "METRICS_VERSION", 2)
    source.read.clear()
    run(tmp_path, source)
    assert sorted(source.read) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    "damage", [{"psnr": "high"}, {"psnr": None}, {"height": []}, {"key": {}}, {"name": None}]
)
def test_fields_that_make_no_sense_are_scored_again(tmp_path, damage, capsys):
    source = Pairs()
    run(tmp_path, source)
    file = tmp_path / "results.jsonl"
    first, *rest = file.read_text().splitlines()
    file.write_text("\n".join([json.dumps(json.loads(first) | damage), *rest]) + "\n")
    source.read.clear()
    run(tmp_path, source)
    assert source.read == [0]


def test_a_report_on_other_pairs_is_not_wiped_out(tmp_path):
    pairs = PairSelection("gopro", options=SourceOptions(blur="blur_gamma"))
    run(tmp_path, Pairs(), pairs=pairs)
    before = (tmp_path / "report.json").read_bytes()
    for other in (PairSelection("gopro"), PairSelection("d"), PairSelection("gopro", "train")):
        source = Pairs()
        with pytest.raises(UserError, match=r"report on other pairs \(gopro, split test, blur b"):
            run(tmp_path, source, pairs=other)
        assert source.read == []
    assert (tmp_path / "report.json").read_bytes() == before
    run(tmp_path, Pairs(), pairs=dataclasses.replace(pairs, limit=2))  # fewer of the same


def test_a_folder_of_pairs_is_known_by_any_of_its_names(tmp_path, monkeypatch):
    (tmp_path / "pairs").mkdir()
    monkeypatch.chdir(tmp_path)
    run("report", Pairs(), pairs=PairSelection("pairs"))
    source = Pairs()
    run("report", source, pairs=PairSelection(str(tmp_path / "pairs")))
    options = SourceOptions(data_dir="pairs")
    run("report", source, pairs=PairSelection("folder", options=options))
    assert source.read == []


def test_what_a_new_report_no_longer_lists_is_said(tmp_path, checkpoint, capsys):
    source = Pairs()
    named = {"checkpoints": (str(checkpoint),), "timing": False}
    run(tmp_path, source, **named)
    capsys.readouterr()
    run(tmp_path, source)
    assert "no longer lists stack2_dmphn_1, width 2: the scores" in capsys.readouterr().err
    source.read.clear()
    run(tmp_path, source, **named)
    assert source.read == []


def test_a_file_that_is_no_report_is_not_wiped_out(tmp_path):
    (tmp_path / "report.json").write_text("{}")
    with pytest.raises(UserError, match=r"report\.json: not a report"):
        run(tmp_path, Pairs())


def test_two_evaluations_do_not_share_a_folder(tmp_path):
    file = ResultsFile(tmp_path / "results.jsonl")
    with pytest.raises(UserError, match=r"results\.jsonl: another evaluation is writing it"):
        run(tmp_path, Pairs())
    file.close()
    run(tmp_path, Pairs())


def test_sigterm_keeps_what_was_scored(tmp_path, monkeypatch, capsys):
    submit, source = Blurry.submit, Pairs()

    def third_is_killed(self, images):
        calls.append(images)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return submit(self, images)

    calls = []
    monkeypatch.setattr(Blurry, "submit", third_is_killed)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ending:
        run(tmp_path, source, batch_size=1)
    assert ending.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is before
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("dmphn")]
    assert said == [
        f"dmphn: {tmp_path}/results.jsonl keeps what was scored; the same command goes on",
        "dmphn: terminated",
    ]
    source.read.clear()
    run(tmp_path, source, batch_size=1)
    assert sorted(source.read) == [2, 3, 4]
