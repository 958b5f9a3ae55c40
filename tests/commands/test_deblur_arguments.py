"""The command line of `dmphn deblur`: wrong use is one line, and a dry run tells all."""

import subprocess
import sys

import pytest

from dmphn_jax import images
from dmphn_jax.commands import deblur, deblur_flags
from dmphn_jax.inference import deblurrer as inference
from tests.support.deblur import run
from tests.support.pictures import SHAPE, bomb, noise, saved, tree


def test_defaults_are_the_libraries_own():
    """The parser spells them out, for --help to answer without numpy and jax."""
    args = deblur.parser().parse_args(["x.png", "-c", "c", "-o", "o"])
    assert args.quality == images.DEFAULT_QUALITY
    assert args.max_pixels == images.DEFAULT_MAX_PIXELS
    assert set(deblur_flags.FORMATS.values()) == set(images.WRITABLE)
    for precision in inference.PRECISIONS:
        deblur.parser().parse_args(["x", "-c", "c", "-o", "o", "--precision", precision])


def test_dry_run_tells_all_and_does_nothing(tmp_path, checkpoint):
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    out.mkdir()
    for name in ("a.png", "b.png"):
        saved(photos / name, noise(*SHAPE, 3))
    (photos / "bomb.png").write_bytes(bomb())
    (out / "a.png").write_bytes(b"old")
    # In its own process, to see that jax is not loaded.
    code = (
        "import sys; from dmphn_jax.commands import deblur; status = deblur.main(sys.argv[1:]); "
        "assert 'jax' not in sys.modules; sys.exit(status)"
    )
    command = [sys.executable, "-c", code, photos, "-c", checkpoint, "-o", out, "--dry-run"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == f"skip    {photos}/a.png: {out}/a.png exists"
    assert lines[1] == f"deblur  {photos}/b.png (20x16 PNG) -> {out}/b.png"
    assert lines[2].startswith(f"fail    {photos}/bomb.png: 60000x60000")
    assert lines[3] == "would deblur 1, skip 1, fail 1"
    assert tree(out) == ["a.png"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["missing.png", "-o", "out"], "missing.png: no such file"),
        (["empty", "-o", "out"], "no images"),
        (["x.png", "-o", "y.gif"], ".gif is not written"),
        (["x.png", "-o", "y.heic"], ".heic is not written"),
        (["x.png", "-o", "y.jpg", "--format", "png"], "disagree"),
        (["x.png", "z.png", "-o", "text"], "several images need a folder"),
        (["folder", "-o", "text"], "need a folder"),
        (["x.png", "-o", "text"], "without an image's extension"),
        (["x.png", "-o", "text/below"], "--output text/below"),
        (["folder", "-o", "out", "--extensions", "png,tfi"], "did you mean"),
        (["folder", "-o", "out", "--extensions", ","], "--extensions"),
    ],
)
def test_wrong_use_is_one_line(
    tmp_path, checkpoint, inverter, capsys, monkeypatch, arguments, says
):
    monkeypatch.chdir(tmp_path)
    for name in ("x.png", "z.png"):
        saved(tmp_path / name, noise(4, 4, 3))
    for name in ("empty", "folder"):
        (tmp_path / name).mkdir()
    saved(tmp_path / "folder/x.png", noise(4, 4, 3))
    (tmp_path / "text").write_text("x")
    assert run(*arguments, "-c", checkpoint) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "flags",
    [
        ["--quality", "0"],
        ["--quality", "101"],
        ["--stages", "0"],
        ["--max-pixels", "many"],
        ["--max-pixels", "inf"],
        ["--max-pixels", "nan"],
        ["--max-pixels", "1e400M"],
        ["--max-pixels", "0.1"],
        ["--max-pixels", ""],
        ["--format", "gif"],
    ],
)
def test_wrong_flags_exit_2(tmp_path, flags, capsys):
    with pytest.raises(SystemExit) as raised:
        deblur.main(["x.png", "-c", "c", "-o", "o", *flags])
    assert raised.value.code == 2
    assert flags[0] in capsys.readouterr().err


def test_max_pixels_is_a_flag(tmp_path, checkpoint, inverter, capsys):
    source = saved(tmp_path / "x.png", noise(50, 40, 3))
    assert run(source, "-c", checkpoint, "-o", tmp_path / "y.png", "--max-pixels", "1.9k") == 1
    assert "--max-pixels" in capsys.readouterr().err
    assert run(source, "-c", checkpoint, "-o", tmp_path / "y.png", "--max-pixels", "2k") == 0
