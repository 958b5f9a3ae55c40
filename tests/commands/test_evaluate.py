import csv
import dataclasses
import shutil

import numpy as np
import pytest
from PIL import Image

from dmphn_jax import checkpoints
from dmphn_jax.commands import evaluate
from dmphn_jax.data import SourceOptions
from dmphn_jax.data.options import BLURS, SOURCES, SPLITS
from dmphn_jax.errors import UserError, run_command
from dmphn_jax.evaluation import metrics, report
from dmphn_jax.inference.deblurrer import Deblurrer
from dmphn_jax.models import init_params
from tests.support.commands import help_without
from tests.support.evaluation import Pairs, save_tiny


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("checkpoints") / "tiny")


@pytest.fixture
def pairs(monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "")  # leave the user's alone
    source = Pairs(videos=2)
    opened = []

    def open_source(name, split, options):
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
    blurry, tiny = made.rows
    assert blurry.label == "blurry input"
    assert tiny.digest == checkpoints.load(checkpoint).digest
    assert tiny.runtime.ms > 0
    assert tiny.images_per_second > 0

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
    for before, after in zip(made.rows, report.read(tmp_path / "r").rows, strict=True):
        assert after == dataclasses.replace(before, images_per_second=None)
    next((tmp_path / "out").glob("*width*/video1/*1.png")).unlink()
    assert evaluate.main(argv) == 0
    assert pairs.read == [1]


def test_images_of_another_checkpoint_of_the_same_name_are_kept_apart(
    pairs, checkpoint, tmp_path, capsys
):
    found = checkpoints.load(checkpoint)
    other = tmp_path / "other"
    checkpoints.save(other, init_params(found.config, 7), found.config)

    def saved(path):
        argv = [str(path), "--data", "d", "--limit", "1", "--no-timing"]
        argv += ["--report", str(tmp_path / "r"), "--save-images", str(tmp_path / "out")]
        assert evaluate.main(argv) == 0
        folders = (tmp_path / "out").glob("*width*")
        return {folder.name: next(folder.rglob("*.png")).read_bytes() for folder in folders}

    ((first, image),) = saved(checkpoint).items()
    both = saved(other)
    assert len(both) == 2
    assert both[first] == image
    assert len(set(both.values())) == 2
    assert "are of another checkpoint or other pairs" in capsys.readouterr().err
    pairs.read.clear()
    assert saved(checkpoint) == both
    assert pairs.read == []


def test_what_cannot_be_used_is_told_before_anything_is_scored(pairs, checkpoint, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(checkpoint, broken)
    shutil.rmtree(broken / "params")
    for argv, says in (
        ([str(checkpoint), str(broken)], "params/ is missing"),
        ([str(checkpoint), "--per-image", str(tmp_path)], "it is a folder"),
    ):
        with pytest.raises(UserError, match=says):
            evaluate.main([*argv, "--data", "d", "--no-timing"])
        assert pairs.read == []


def test_the_command_with_ensemble_and_stages(pairs, checkpoint, capsys):
    argv = [str(checkpoint), "--data", "d", "--limit", "1", "--no-timing"]
    assert evaluate.main([*argv, "--ensemble", "--stages", "1"]) == 0
    assert "first 1 of 2 stages, x8 ensemble" in capsys.readouterr().out


def test_a_bad_pair_is_passed_over_and_status_is_1(pairs, checkpoint, capsys):
    pairs.bad = [2]
    assert evaluate.main([str(checkpoint), "--data", "d", "--no-timing"]) == 1
    captured = capsys.readouterr()
    assert "video0/000002.png: damaged" in captured.err
    assert "1 pair could not be scored" in captured.out


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


def test_help_needs_no_jax_and_names_what_can_be_scored():
    text = " ".join(help_without("evaluate", "jax").split())
    for name, what in SOURCES.items():
        assert f"{name}: {what}" in text
    for flag, names in (("split", SPLITS), ("blur", BLURS)):
        assert f"--{flag} {{{','.join(names)}}}" in text


def test_a_split_that_is_none_is_refused_before_anything_is_opened(pairs, capsys):
    with pytest.raises(SystemExit) as ending:
        evaluate.main(["--data", "d", "--split", "tset"])
    assert ending.value.code == 2
    assert "--split" in capsys.readouterr().err
    assert pairs.opened == []


def test_every_depth_is_a_row_and_a_point(pairs, checkpoint, tmp_path, capsys):
    folder = tmp_path / "report"
    argv = [str(checkpoint), "--data", "d", "--limit", "2", "--stages", "all"]
    assert evaluate.main([*argv, "--report", str(folder)]) == 0
    rows = report.read(folder).rows
    assert [row.label.endswith("first 1 of 2 stages") for row in rows] == [False, True, False]
    assert len({row.mean["psnr"] for row in rows}) == 3
    assert all(row.runtime for row in rows[1:])
    picture = Image.open(folder / "stages.png")
    assert picture.format == "PNG"
    assert picture.height > picture.width  # a panel for PSNR, one for SSIM
    assert "first 1 of 2 stages" in capsys.readouterr().out
