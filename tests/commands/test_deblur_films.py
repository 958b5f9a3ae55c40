"""`dmphn deblur` of films, from the command line."""

from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from dmphn_jax.commands import deblur as command
from dmphn_jax.errors import UserError
from dmphn_jax.inference import frame_folder
from dmphn_jax.inference.deblurrer import Deblurrer
from tests.support.deblur import run
from tests.support.films import facts, make_film, pictures
from tests.support.pictures import pixels

pytest.importorskip("av")


def test_frames_are_what_the_network_makes_of_them(tmp_path, checkpoint, capsys):
    for name, pixel_format in (("shallow", "yuv420p"), ("deep", "yuv420p10le")):
        make = {"codec": "ffv1", "pixel_format": pixel_format}
        film = make_film(tmp_path / f"{name}.mkv", pictures(11), sound=None, **make)
        frames, sharp = tmp_path / "frames", tmp_path / "sharp"
        assert run(film, "-c", checkpoint, "-o", sharp, "--format", "png") == 0
        assert "deblurred 1 of 1" in capsys.readouterr().out
        assert len(list((sharp / name).glob("*.png"))) == 11
        deep = name == "deep"
        stored = read_frames(film, deep=deep)
        network = Deblurrer(checkpoint)
        for index, frame in enumerate(stored):
            got = pixels(sharp / name / f"{index:06}.png").astype(int)
            assert np.abs(got - network(frame)).max() <= (257 if deep else 1)
        assert not frames.exists()


def read_frames(path, *, deep):
    from contextlib import closing

    from dmphn_jax.video.film import FilmReader

    with closing(FilmReader(path, max_pixels=10**8)) as reader:
        assert reader.info.deep == deep
        return [frame.pixels for frame in reader.frames()]


@pytest.mark.parametrize("stored", ["yuv420p", "yuv420p10le"])
@pytest.mark.parametrize(
    ("flags", "written"),
    [([], None), (["--ten-bit"], "yuv420p10le"), (["--no-ten-bit"], "yuv420p")],
)
def test_ten_bits_or_eight_as_told(tmp_path, checkpoint, inverter, stored, flags, written):
    make = {"codec": "ffv1", "pixel_format": stored}
    film, out = make_film(tmp_path / "a.mkv", pictures(3), sound=None, **make), tmp_path / "b.mkv"
    assert run(film, "-c", checkpoint, "-o", out, *flags) == 0
    made = facts(out)
    assert made.pixel_format == (written or stored)
    assert made.codec == ("hevc" if made.pixel_format == "yuv420p10le" else "h264")


def test_a_folder_of_films_and_pictures(tmp_path, checkpoint, inverter, capsys):
    mixed, out = tmp_path / "mixed", tmp_path / "out"
    (mixed / "sub").mkdir(parents=True)
    make_film(mixed / "a.mp4", pictures(9))
    make_film(mixed / "sub" / "b.mkv", pictures(9))
    (mixed / "c.mov").write_text("no film")
    (mixed / "code.ts").write_text("export const x = 1;")
    Image.fromarray(pictures(1)[0]).save(mixed / "d.png")
    assert run(mixed, "-c", checkpoint, "-o", out) == 1
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert "c.mov: cannot be read as video" in captured.err
    assert "deblurred 3 of 4" in captured.out
    assert "1 .ts" in captured.out
    assert len(facts(out / "a.mp4").times) == len(facts(out / "sub" / "b.mkv").times) == 9
    # The same again, with a flag of films that are all made.
    assert run(mixed, "-c", checkpoint, "-o", out, "--crf", "20") == 1
    assert "3 skipped" in capsys.readouterr().out


def test_a_folder_of_frames_becomes_a_film(tmp_path, checkpoint, inverter):
    frames, film = tmp_path / "frames", tmp_path / "film.mp4"
    frames.mkdir()
    for index, image in enumerate(pictures(5)):
        Image.fromarray(image).save(frames / f"{index}.png")
    assert run(frames, "-c", checkpoint, "-o", film, "--rate", "30000/1001") == 0
    times = facts(film).times
    assert [float(time) for time in times] == pytest.approx([k * 1001 / 30000 for k in range(5)])


def test_a_dry_run_tells_of_films(tmp_path, checkpoint, capsys):
    film = make_film(tmp_path / "a.mp4")
    (tmp_path / "b.mp4").write_text("no film")
    assert run(film, tmp_path / "b.mp4", "-c", checkpoint, "-o", tmp_path / "out", "-n") == 1
    out = capsys.readouterr().out
    assert "(64x48, 30 frames/s, 60 frames)" in out
    assert "fail    " in out
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["a.mp4", "-o", "x.webm", "--codec", "h264"], ".webm holds vp9, av1"),
        (["a.mp4", "-o", "x.mts"], ".mts is not written"),
        (["a.mp4", "-o", "x.png"], "name a film"),
        (["a.mp4", "-o", "x.mp4", "--crf", "52"], "0 to 51 for h264"),
        (["a.mp4", "-o", "x.mkv", "--codec", "ffv1", "--crf", "1"], "ffv1 has none"),
        (["a.mp4", "a.mp4", "-o", "x.mp4"], "several inputs need a folder"),
        (["p.png", "-o", "x.mp4"], "a film or a folder of its frames"),
        (["p.png", "-o", "q.png", "--crf", "20"], "for films, and there is none"),
        (["a.mp4", "-o", "x.mp4", "--format", "png"], "disagree"),
        (["a.mp4", "-o", "a.mp4"], "written over itself"),
    ],
)
def test_wrong_use_is_one_line(tmp_path, checkpoint, monkeypatch, capsys, arguments, reason):
    monkeypatch.chdir(tmp_path)
    make_film("a.mp4", pictures(2), sound=None)
    Image.fromarray(pictures(1)[0]).save("p.png")
    assert run(*arguments, "-c", checkpoint) == 2
    error = capsys.readouterr().err
    assert reason in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("text", ["5", "9:3", "a:b", "-1:4"])
def test_frames_that_are_no_range(text):
    with pytest.raises(SystemExit):
        command.parser().parse_args(["a.mp4", "-c", "c", "-o", "o.mp4", f"--frames={text}"])


@pytest.mark.parametrize("text", ["0", "-5", "1/0", "many", "0.0004"])
def test_rates_that_are_none(text):
    with pytest.raises(SystemExit):
        command.parser().parse_args(["a", "-c", "c", "-o", "o.mp4", f"--rate={text}"])


def test_a_folder_of_frames_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    def refuse(folder):
        raise PermissionError(13, "Permission denied", folder)

    monkeypatch.setattr(frame_folder.os, "listdir", refuse)
    with pytest.raises(UserError, match="frames: cannot be read \\(Permission denied"):
        frame_folder.FrameFolder("frames", Fraction(24), max_pixels=100)


def test_a_missing_pyav_is_one_line(tmp_path, checkpoint, inverter, monkeypatch, capsys):
    import sys

    film = make_film(tmp_path / "a.mp4", pictures(2), sound=None)
    monkeypatch.setitem(sys.modules, "av", None)
    assert run(film, "-c", checkpoint, "-o", tmp_path / "out.mp4") == 1
    error = capsys.readouterr().err
    assert "pip install 'dmphn_jax[video]'" in error
    assert error.count("\n") == 1
