import csv
import itertools
import json
import subprocess
import sys

import jax
import numpy as np
import pytest
import scipy.ndimage
from PIL import Image

from dmphn_jax import checkpoints, models
from dmphn_jax.commands import evaluate
from dmphn_jax.data import SourceOptions
from dmphn_jax.data.base import Pair
from dmphn_jax.data.splits import VIDEO_DEBLURRING_TEST
from dmphn_jax.errors import UserError, run_command
from dmphn_jax.evaluation import metrics, report
from dmphn_jax.evaluation.results import ResultsFile
from dmphn_jax.evaluation.run import EvaluationRun, subset
from dmphn_jax.evaluation.scoring import (
    Blurry,
    SelfEnsemble,
    _batches,
    evaluate_params,
    measure_runtime,
)
from dmphn_jax.inference.deblurrer import Deblurrer
from dmphn_jax.models import ModelConfig
from tests.support.commands import help_without

SIZE = (24, 32)
TINY = ModelConfig("dmphn", "1", stages=2, width=2)


class Pairs:
    """Pairs in memory; `read` counts what was asked for."""

    def __init__(self, sizes=(SIZE,) * 5, videos=1, bad=()):
        self.names = [f"video{i % videos}/{i:06d}" for i in range(len(sizes))]
        self.sizes, self.bad, self.read = sizes, bad, []

    def __len__(self):
        return len(self.sizes)

    def __getitem__(self, index):
        self.read.append(index)
        if index in self.bad:
            raise UserError(f"{self.names[index]}.png: damaged")
        rng = np.random.default_rng(index)
        sharp = rng.integers(0, 256, (*self.sizes[index], 3), dtype=np.uint8)
        blurry = scipy.ndimage.gaussian_filter(sharp, (0.5 + index / 4, 0.5, 0))
        return Pair(blurry, sharp, self.names[index])


@pytest.fixture(scope="module")
def params():
    rng = np.random.default_rng(0)
    shapes = models.parameter_shapes(TINY)
    return jax.tree.map(lambda leaf: rng.normal(0, 0.3, leaf.shape).astype(np.float32), shapes)


@pytest.fixture(scope="module")
def checkpoint(params, tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoints") / "tiny"
    checkpoints.save(path, params, TINY)
    return path


def test_scores_of_every_pair_in_order():
    source = Pairs(videos=2)
    result = evaluate_params(Blurry(), source, batch_size=2)
    for i, image in enumerate(result.images):
        blurry, sharp, name = source[i]
        assert (image.index, image.name, image.height, image.width) == (i, name, *SIZE)
        assert image.scores == pytest.approx(metrics.scores(blurry, sharp), abs=1e-5)
    psnr = [image.scores["psnr"] for image in result.images]
    assert result.mean["psnr"] == pytest.approx(np.mean(psnr))
    assert result.videos["video0"]["psnr"] == pytest.approx(np.mean(psnr[::2]))
    assert result.videos["video1"]["psnr"] == pytest.approx(np.mean(psnr[1::2]))
    # Three images in one video, two in the other: Table 3 weighs videos, not images.
    want = (np.mean(psnr[::2]) + np.mean(psnr[1::2])) / 2
    assert result.video_mean["psnr"] == pytest.approx(want)
    assert result.video_mean["psnr"] != pytest.approx(result.mean["psnr"], abs=1e-6)


def test_sizes_may_alternate():
    sizes = [SIZE, (16, 20), SIZE, (16, 20), (11, 11), SIZE, (16, 20)]
    source = Pairs(sizes)
    shapes = []

    def method(images):
        shapes.append(images.shape)
        return images

    result = evaluate_params(method, source, batch_size=2)
    assert [image.name for image in result.images] == source.names
    assert {shape[0] for shape in shapes} == {2}  # a size compiles once
    for image in result.images:
        blurry, sharp, _ = source[image.index]
        assert image.scores == pytest.approx(metrics.scores(blurry, sharp), abs=1e-5)
    assert result.commonest_size == SIZE


def test_many_sizes_do_not_pile_up():
    source = Pairs([(11 + i, 12) for i in range(60)])
    batches = _batches(source, range(60), 2)
    next(batches)
    assert len(source.read) < 40  # the first batch did not wait for the last pair
    rest = [index for batch in batches for index, _ in batch]
    assert len(rest) == 59


def test_pairs_that_fail_are_told_and_passed_over():
    class Unlike(Pairs):
        def __getitem__(self, index):
            blurry, sharp, name = super().__getitem__(index)
            return Pair(blurry[1:] if index == 3 else blurry, sharp, name)

    source = Unlike([SIZE] * 4 + [(10, 32)], bad=[1])
    told = []
    result = evaluate_params(Blurry(), source, on_failure=told.append)
    assert [image.index for image in result.images] == [0, 2]
    assert told == result.failures
    assert told[0] == "video0/000001.png: damaged"
    assert told[1] == "video0/000003: its blurry image is 23 x 32, its sharp one 24 x 32"
    assert "11 x 11 window" in told[2]


def test_a_network_of_a_training_run(params):
    source = Pairs()
    deblurrer = Deblurrer(params=params, config=TINY)
    result = evaluate_params(deblurrer, source, indices=[1, 3], batch_size=2)
    assert [image.index for image in result.images] == [1, 3]
    for image in result.images:
        blurry, sharp, _ = source[image.index]
        want = metrics.scores(deblurrer(blurry), sharp)
        assert image.scores == pytest.approx(want, abs=1e-3)


def test_nothing_to_score():
    result = evaluate_params(Blurry(), Pairs(), indices=[])
    assert len(result) == 0
    assert np.isnan(result.mean["psnr"])
    assert result.commonest_size is None


def test_subset_is_spread_evenly():
    assert subset(10, None) == subset(10, 10) == subset(10, 99) == list(range(10))
    assert subset(1111, 3) == [0, 370, 740]


def test_ensemble_is_the_mean_over_the_eight_poses(params):
    """Against the definition, with a network that knows left from right and up from down."""
    image = Pairs([(24, 24)])[0].blurry
    deblurrer = Deblurrer(params=params, config=TINY)
    total = np.zeros(image.shape)
    for turns, mirror in itertools.product(range(4), (False, True)):
        pose = np.rot90(image, turns)
        pose = np.fliplr(pose) if mirror else pose
        output = np.clip(deblurrer.output(np.ascontiguousarray(pose)).image, 0, 1)
        output = np.fliplr(output) if mirror else output
        total += np.rot90(output, -turns)
    want = total / 8 * 255
    got = SelfEnsemble(deblurrer).batch(image[None])[0]
    assert got.dtype == np.uint8
    assert np.abs(got - want).max() < 0.51


def test_ensemble_leaves_what_does_nothing():
    images = np.stack([pair.blurry for pair in (Pairs()[0], Pairs()[1])])
    np.testing.assert_array_equal(SelfEnsemble(Blurry()).batch(images), images)


def test_runtime_is_of_one_image_after_a_warm_up():
    shapes = []

    class Method:
        def batch(self, images):
            shapes.append(images.shape)
            return images

    assert measure_runtime(Method(), SIZE, runs=5) > 0
    assert shapes == [(1, *SIZE, 3)] * 6


# --- runs that are kept on disk ---


def score_blurry(folder, source, **kwargs):
    with EvaluationRun(source, data={"name": "d", "split": "test"}, folder=folder, **kwargs) as run:
        run.score(report.BLURRY, Blurry())
    return run


def test_a_stopped_run_goes_on(tmp_path, capsys):
    source = Pairs([SIZE] * 8)

    class Stopped(Pairs):
        def __getitem__(self, index):
            if index == 5:
                raise KeyboardInterrupt
            return super().__getitem__(index)

    with pytest.raises(KeyboardInterrupt):
        score_blurry(tmp_path, Stopped(source.sizes), batch_size=1)
    lines = (tmp_path / "results.jsonl").read_text().splitlines()
    assert len(lines) == 5
    assert "the same command goes on" in capsys.readouterr().err

    run = score_blurry(tmp_path, source, batch_size=1)
    assert sorted(source.read) == [5, 6, 7]
    assert not run.results[report.BLURRY].failures
    fresh = score_blurry(tmp_path / "fresh", source)
    assert run.results[report.BLURRY].mean == pytest.approx(fresh.results[report.BLURRY].mean)


@pytest.mark.parametrize("damage", ["cut", "garbage", "cut in a line before"])
def test_damaged_lines_are_scored_again(tmp_path, damage, capsys):
    source = Pairs()
    score_blurry(tmp_path, source)
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
    run = score_blurry(tmp_path, source)
    assert source.read == again
    assert "1 unreadable lines" in capsys.readouterr().err
    assert len(run.results[report.BLURRY]) == 5
    source.read.clear()
    score_blurry(tmp_path, source)  # the file is sound again
    assert source.read == []
    assert all(json.loads(line) for line in file.read_bytes().splitlines()[2:])


def test_results_are_kept_apart_by_what_they_depend_on(tmp_path, params):
    source = Pairs((SIZE,) * 2)
    more = dict(params, stage_1=params["stage_1"])

    def read_by(**kwargs):
        source.read.clear()
        deblurrer = Deblurrer(params=more, config=TINY, **kwargs)
        deblurrer.digest = kwargs.get("digest", "a" * 64)
        data = {"name": "d", "split": "test"}
        with EvaluationRun(source, data=data, folder=tmp_path) as run:
            run.score_checkpoint("tiny", deblurrer, timing=False)
        return len(source.read), next(iter(run.results))

    assert read_by()[0] == 2
    assert read_by()[0] == 0
    count, label = read_by(stages=1)
    assert count == 2
    assert "first 1 of 2 stages" in label
    assert read_by(precision="bfloat16")[0] == 2
    assert read_by()[0] == 0
    source.names = [f"other/{i}" for i in range(2)]
    assert read_by()[0] == 2


def test_unwritable_folder_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/results.jsonl: cannot be written"):
        ResultsFile(tmp_path / "file" / "results.jsonl")


def test_options_of_the_data_are_part_of_the_key(tmp_path):
    def read_by(**options):
        source = Pairs()
        data = {"name": "gopro", "split": "test", **options}
        with EvaluationRun(source, data=data, folder=tmp_path, indices=[4, 1]) as run:
            run.score(report.BLURRY, Blurry())
        return sorted(source.read)

    assert read_by() == [1, 4]
    assert read_by() == []
    assert read_by(blur="blur_gamma") == [1, 4]


def test_frames_that_su_et_al_score():
    names = [f"{video}/{frame:05d}" for frame in range(100) for video in "ba"]
    indices = evaluate.su_frames_of(names)
    assert len(indices) == 60
    frames = [int(names[i].split("/")[1]) for i in indices if names[i][0] == "a"]
    assert frames[:3] == [1, 4, 7]
    assert frames[-1] == 96


# --- the report ---


def entry_result(videos):
    """Scores of videos given by their PSNR."""
    from dmphn_jax.evaluation.scoring import EvalResult, ImageScores

    scores = [{"psnr": p, "ssim_matlab": 0.9, "ssim_skimage": 0.8} for p in videos.values()]
    names = [f"{name}/0" for name in videos]
    return EvalResult(
        [ImageScores(i, n, 720, 1280, s) for i, (n, s) in enumerate(zip(names, scores))]
    )


def as_report(rows, **data):
    return {
        "format": 1,
        "date": "2026-01-01",
        "command": "dmphn evaluate",
        "environment": {"devices": "1 x cpu", "jax": "0"},
        "data": {"name": "gopro", "split": "test", "images": 1111, "of": 1111, **data},
        "rows": rows,
    }


def cells(text, first):
    line = next(line for line in text.splitlines() if line.startswith(f"| {first} "))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_rows_stand_beside_the_papers_figures():
    stack4 = models.zoo.get("stack4")
    result = entry_result({"a": 31.0, "b": 32.0})
    runtime = {"ms": 80.04, "height": 720, "width": 1280}
    about = {"checkpoint": "c", "digest": "0" * 64}
    result.images_per_second = 12.5
    rows = [
        report.row(report.BLURRY, result),
        report.row("Stack(4)-DMPHN", result, config=stack4, runtime=runtime, **about),
        report.row("cut", result, config=stack4, stages=2, **about),
        report.row("own", result, config=TINY, **about),
    ]
    text = report.markdown(as_report(rows))
    assert cells(text, "model")[:6] == [
        "model",
        "PSNR (dB)",
        "paper's, GoPro",
        "SSIM (MATLAB 3-D)",
        "paper's, GoPro",
        "SSIM (scikit-image)",
    ]
    assert cells(text, "blurry input")[1:6] == ["31.50", "", "0.9000", "", "0.8000"]
    assert cells(text, r"Stack(4)-DMPHN")[1:] == [
        *["31.50", "31.20", "0.9000", "0.9453", "0.8000"],
        *["86.8", "80.0", "1280x720", "424", "12.50"],
    ]
    # Two of four stages are not the paper's Stack(2): its figures carry a mark.
    assert cells(text, "cut")[2] == "30.71*"
    assert "trained by itself" in text
    assert cells(text, "own")[2] == ""
    assert "other images" not in text
    assert "without waiting" in text
    # Columns that would be empty are left out, and what explains them.
    untimed = report.row("Stack(4)-DMPHN", entry_result({"a": 31.0}), config=stack4, **about)
    text = report.markdown(as_report([untimed]))
    assert cells(text, "model")[-1] == "MB"
    assert "without waiting" not in text
    assert "other images" in report.markdown(as_report(rows, images=5))


def test_videos_stand_beside_table_3():
    known = report.TABLE_3[report.BLURRY][:10]
    blurry = dict(sorted(zip(VIDEO_DEBLURRING_TEST, known, strict=True)))
    blurry["other"] = 30.0
    stack2 = models.zoo.get("stack2")
    rows = [
        report.row(report.BLURRY, entry_result(blurry)),
        report.row(
            "Stack(2)-DMPHN",
            entry_result({name: 30.0 for name in blurry}),
            config=stack2,
            checkpoint="c",
            digest="0" * 64,
        ),
    ]
    text = report.markdown(as_report(rows, name="video_deblurring"))
    rows = [line for line in text.splitlines() if "(#" in line]
    assert [line.split()[1] for line in rows] == list(VIDEO_DEBLURRING_TEST)
    assert cells(text, "IMG_0049 (#2)")[1:] == ["30.52 (30.52)", "30.00 (33.98)"]
    assert cells(text, "other")[1:] == ["30.00", "30.00"]
    assert cells(text, "mean")[1:] == ["27.40 (27.14)", "30.00 (31.22)"]
    assert cells(text, "Stack(2)-DMPHN")[1:3] == ["30.00", "31.22"]


def test_table_3_is_copied_right():
    """By its own mean column, which of the stacks is 0.08 above the mean of their videos."""
    for name, (*videos, mean) in report.TABLE_3.items():
        excess = 0.08 if name.startswith("stack") else 0.0
        assert mean - np.mean(videos) == pytest.approx(excess, abs=0.0101)


def test_equal_images_make_a_report_that_json_can_hold(tmp_path):
    result = entry_result({"a": float("inf")})
    report.write(tmp_path, as_report([report.row("same", result)]))
    text = (tmp_path / "report.json").read_text()
    assert json.loads(text, parse_constant=pytest.fail)["rows"][0]["psnr"] is None
    assert report.read(tmp_path)["rows"][0]["label"] == "same"


@pytest.mark.parametrize("content", [None, "{", "[]", '{"rows": 1}', '{"rows": [], "format": 99}'])
def test_what_is_no_report_is_one_line(tmp_path, content):
    if content is not None:
        (tmp_path / "report.json").write_text(content)
    with pytest.raises(UserError, match=r"report\.json: "):
        report.read(tmp_path)


# --- the command ---


@pytest.fixture
def pairs(monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "")  # leave the user's alone
    source = Pairs(videos=2)
    opened = []

    def open_source(name, split="train", options=None):
        opened.append((name, split, options))
        return source

    import dmphn_jax.data

    monkeypatch.setattr(dmphn_jax.data, "open_source", open_source, raising=False)
    source.opened = opened
    return source


def test_the_command(pairs, checkpoint, tmp_path, capsys):
    argv = [str(checkpoint), "--data", "gopro", "--report", str(tmp_path / "r"), "--limit", "3"]
    argv += ["--per-image", str(tmp_path / "scores.csv"), "--save-images", str(tmp_path / "out")]
    argv += ["--data-dir", "prepared"]
    assert evaluate.main(argv) == 0
    assert pairs.opened == [("gopro", "test", SourceOptions(data_dir="prepared"))]
    out = capsys.readouterr().out
    assert out == (tmp_path / "r/report.md").read_text()
    assert "3 of 5 pairs" in out
    made = report.read(tmp_path / "r")
    blurry, tiny = made["rows"]
    assert blurry["label"] == "blurry input"
    assert tiny["digest"] == checkpoints.load(checkpoint).digest
    assert tiny["runtime"]["ms"] > 0
    assert tiny["images_per_second"] > 0

    rows = list(csv.DictReader((tmp_path / "scores.csv").read_text().splitlines()))
    assert [row["image"] for row in rows[:3]] == [pairs.names[i] for i in (0, 1, 3)]
    deblurrer = Deblurrer(checkpoint)
    for row, index in zip(rows[3:], (0, 1, 3), strict=True):
        saved = np.asarray(Image.open(next((tmp_path / "out").glob(f"*width*/{row['image']}.png"))))
        np.testing.assert_array_equal(saved, deblurrer(pairs[index].blurry))
        want = metrics.scores(saved, pairs[index].sharp)["psnr"]
        assert float(row["psnr"]) == pytest.approx(want, abs=1e-4)

    # A second time nothing is computed, unless an image is missing.
    pairs.read.clear()
    assert evaluate.main(argv) == 0
    assert pairs.read == []
    for before, after in zip(made["rows"], report.read(tmp_path / "r")["rows"], strict=True):
        assert after == {**before, "images_per_second": None}
    next((tmp_path / "out").glob("*width*/video1/*1.png")).unlink()
    assert evaluate.main(argv) == 0
    assert pairs.read == [1]


def test_the_command_with_ensemble_and_stages(pairs, checkpoint, capsys):
    argv = [str(checkpoint), "--data", "d", "--limit", "1", "--no-timing"]
    assert evaluate.main([*argv, "--ensemble", "--stages", "1"]) == 0
    assert "first 1 of 2 stages, x8 ensemble" in capsys.readouterr().out


def test_a_bad_pair_is_passed_over_and_status_is_1(pairs, checkpoint, capsys):
    pairs.bad = [2]
    assert evaluate.main([str(checkpoint), "--data", "d", "--no-timing"]) == 1
    captured = capsys.readouterr()
    assert "video0/000002.png: damaged" in captured.err
    assert "1 pairs failed" in captured.out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["missing", "--data", "d"], "missing: no such checkpoint"),
        (["CHECKPOINT", "--data", "d", "--stages", "3"], "--stages 3: CHECKPOINT has 2"),
        (["--data", "d", "--synthetic-count", "3"], "--synthetic-count needs --data synthetic"),
        (["--data", "d", "--su-frames"], "--su-frames needs --data video_deblurring"),
        (["--data", "d", "--devices", "99"], "--devices 99: this machine has"),
    ],
)
def test_mistakes_are_one_line(pairs, checkpoint, capsys, argv, message):
    argv = [str(checkpoint) if word == "CHECKPOINT" else word for word in argv]
    assert run_command(evaluate.main, argv) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert message.replace("CHECKPOINT", str(checkpoint)) in err


_ON_DEVICES = """
import json, sys
import jax
jax.config.update("jax_num_cpu_devices", 3)
from dmphn_jax.evaluation.scoring import evaluate_params
from dmphn_jax.inference.deblurrer import Deblurrer
from tests.commands.test_evaluate import Pairs
deblurrer = Deblurrer(sys.argv[1])
shapes = []
def method(images):
    shapes.append(images.shape[0])
    return deblurrer.batch(images)
result = evaluate_params(method, Pairs(videos=2))
assert len(jax.devices()) == 3 and shapes == [3, 3], shapes
print(json.dumps([image.scores for image in result.images]))
"""


def test_several_devices_share_the_batches(checkpoint):
    one = evaluate_params(Deblurrer(checkpoint), Pairs(videos=2))
    done = subprocess.run(
        [sys.executable, "-c", _ON_DEVICES, str(checkpoint)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    three = json.loads(done.stdout)
    assert len(three) == 5
    for a, b in zip(one.images, three, strict=True):
        assert a.scores == pytest.approx(b, abs=1e-3)


def test_help_needs_no_jax():
    assert "--ensemble" in help_without("evaluate", "jax")
