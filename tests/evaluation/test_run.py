import json

import pytest

from dmphn_jax.data import SourceOptions
from dmphn_jax.errors import UserError
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
    assert read_by(precision="bfloat16")[0] == 2
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
        return sorted(source.read)

    assert read_by() == [0, 2]
    assert read_by() == []
    assert read_by(blur="blur_gamma") == [0, 2]
    assert read_by(data_dir="elsewhere") == []  # the same data may have moved
