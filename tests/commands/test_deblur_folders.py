"""Which file of a folder goes where, and which is left alone."""

import os
import socket
import sys

import numpy as np
import pytest

from dmphn_jax.errors import UNPRINTED
from dmphn_jax.inference import deblurrer as inference
from tests.support.deblur import run
from tests.support.pictures import SHAPE, negative_of, noise, pixels, saved, tree


def test_tree_is_kept_and_the_rest_passed_over(tmp_path, checkpoint, inverter, capsys):
    photos = tmp_path / "photos"
    names = ["a.png", "sub/a.png", "sub/deep/er/b.PNG", "x.png/inside.png"]
    for index, name in enumerate(names):
        (photos / name).parent.mkdir(parents=True, exist_ok=True)
        saved(photos / name, noise(*SHAPE, 3, seed=index))
    (photos / "notes.txt").write_text("x")
    (photos / "._a.png").write_text("resource fork")
    (photos / ".cache").mkdir()
    saved(photos / ".cache/thumbnail.png", noise(4, 4, 3))
    (photos / "loop").symlink_to(photos)
    assert run(photos, "-c", checkpoint, "-o", tmp_path / "out") == 0
    assert tree(tmp_path / "out") == sorted(names)
    for name in names:
        assert negative_of(tmp_path / "out" / name, photos / name)
    assert "1 .txt" in capsys.readouterr().out


def test_single_image_to_a_file_or_a_folder(tmp_path, checkpoint, inverter):
    source = saved(tmp_path / "x.png", noise(*SHAPE, 3))
    for output, written in (
        ("y.png", "y.png"),
        ("new/z.tif", "new/z.tif"),
        ("folder", "folder/x.png"),
        ("v1.2", "v1.2/x.png"),
        ("slash.png/", "slash.png/x.png"),
    ):
        # Not by `/`, which would drop the slash at the end.
        assert run(source, "-c", checkpoint, "-o", f"{tmp_path}/{output}") == 0
        assert negative_of(tmp_path / written, source)


def test_existing_outputs_are_skipped_unless_told(tmp_path, checkpoint, inverter, capsys):
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    out.mkdir()
    for name in ("a.png", "b.png"):
        saved(photos / name, noise(*SHAPE, 3))
    (out / "a.png").write_bytes(b"precious")
    assert run(photos, "-c", checkpoint, "-o", out) == 0
    assert (out / "a.png").read_bytes() == b"precious"
    assert negative_of(out / "b.png", photos / "b.png")
    assert "1 skipped" in capsys.readouterr().out
    assert run(photos, "-c", checkpoint, "-o", out, "--overwrite") == 0
    assert negative_of(out / "a.png", photos / "a.png")


def test_inputs_are_only_overwritten_when_told(tmp_path, checkpoint, inverter, capsys):
    source = saved(tmp_path / "x.png", noise(*SHAPE, 3))
    before = pixels(source)
    (tmp_path / "link.png").symlink_to(source)
    for output in (source, tmp_path, tmp_path / "link.png"):
        assert run(source, "-c", checkpoint, "-o", output) == 2
        assert "over itself" in capsys.readouterr().err
    assert run(tmp_path, "-c", checkpoint, "-o", tmp_path) == 2
    np.testing.assert_array_equal(pixels(source), before)
    assert run(source, "-c", checkpoint, "-o", source, "--overwrite") == 0
    np.testing.assert_array_equal(pixels(source), 255 - before)


def test_never_over_another_input(tmp_path, checkpoint, inverter, capsys):
    saved(tmp_path / "a.png", noise(*SHAPE, 3))
    (tmp_path / "sub").mkdir()
    victim = saved(tmp_path / "sub/a.png", noise(*SHAPE, 3, seed=1))
    before = victim.read_bytes()
    inputs = [tmp_path / "a.png", victim]
    assert run(*inputs, "-c", checkpoint, "-o", tmp_path / "sub", "--overwrite") == 2
    assert victim.read_bytes() == before


def test_outputs_inside_the_input_are_not_inputs_again(tmp_path, checkpoint, inverter):
    saved(tmp_path / "a.png", noise(*SHAPE, 3))
    for _ in range(2):
        assert run(tmp_path, "-c", checkpoint, "-o", tmp_path / "sharp", "--overwrite") == 0
    assert tree(tmp_path) == ["a.png", "sharp/a.png"]


def test_two_inputs_for_one_output_are_told_before_work(tmp_path, checkpoint, inverter, capsys):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        saved(tmp_path / folder / "a.png", noise(*SHAPE, 3))
    assert run(tmp_path / "one", tmp_path / "two", "-c", checkpoint, "-o", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert str(tmp_path / "one/a.png") in error
    assert str(tmp_path / "two/a.png") in error
    assert not (tmp_path / "out").exists()
    # Nor is anything written where each of a folder's files would be the other's.
    saved(tmp_path / "one/a.bmp", noise(*SHAPE, 3))
    (tmp_path / "one/a.png").rename(tmp_path / "one/a.webp")
    assert run(tmp_path / "one", "-c", checkpoint, "-o", tmp_path / "out", "--format", "png") == 2
    assert not (tmp_path / "out").exists()
    # The same file twice is one job.
    twice = [tmp_path / "two/a.png"] * 2
    assert run(*twice, "-c", checkpoint, "-o", tmp_path / "out") == 0


def test_entries_that_cannot_be_done_stop_no_others(tmp_path, checkpoint, inverter, capfd):
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("a.png", "a.gif", "b.jpg", "c.webp", "c.bmp"):
        saved(photos / name, noise(*SHAPE, 3))
    (photos / "loop").symlink_to("loop")
    (photos / "loop.png").symlink_to("loop.png")
    os.mkfifo(photos / "pipe.png")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(photos / "socket.jpg"))
    assert run(photos, "-c", checkpoint, "-o", tmp_path / "out", "--format", "png") == 1
    assert tree(tmp_path / "out") == ["a.png", "b.png"]
    for name, source in (("a.png", "a.png"), ("b.png", "b.jpg")):
        assert negative_of(tmp_path / "out" / name, photos / source)
    captured = capfd.readouterr()
    failed = [line.split(": ")[2] for line in captured.err.splitlines()]
    names = ["a.gif", "c.bmp", "c.webp", "loop.png", "pipe.png", "socket.jpg"]
    assert failed == [str(photos / name) for name in names]
    assert captured.out.startswith("deblurred 2 of 8 ")
    # A folder of nothing but such entries asks no network.
    assert run(photos / "loop.png", "-c", checkpoint, "-o", tmp_path / "out") == 1


@pytest.mark.parametrize("kind", ["folder", "dangling link", "pipe"])
def test_what_else_has_the_outputs_name_is_an_error(tmp_path, checkpoint, inverter, capsys, kind):
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    out.mkdir()
    for name in ("a.png", "b.png"):
        saved(photos / name, noise(*SHAPE, 3))
    if kind == "folder":
        (out / "a.png").mkdir()
    elif kind == "pipe":
        os.mkfifo(out / "a.png")
    else:
        (out / "a.png").symlink_to(tmp_path / "nowhere")
    assert run(photos, "-c", checkpoint, "-o", out) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith(f"dmphn: failed: {photos}/a.png: its output {out}/a.png is ")
    assert captured.err.count("\n") == 1
    assert captured.out == f"deblurred 1 of 2 into {out}; 1 failed\n"
    assert negative_of(out / "b.png", photos / "b.png")
    assert not (tmp_path / "nowhere").exists()


def test_a_full_output_costs_no_picture(tmp_path, checkpoint, monkeypatch, inverter, capsys):
    saved(tmp_path / "größe.png", noise(*SHAPE, 3))
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        arguments = (tmp_path / "größe.png", "-c", checkpoint, "-o", tmp_path / "out")
        assert run(*arguments) == UNPRINTED
        monkeypatch.undo()
    assert tree(tmp_path / "out") == ["größe.png"]
    assert "No space left" in capsys.readouterr().err


def test_names_of_any_bytes(tmp_path, checkpoint, inverter, capsys):
    photos = os.fsencode(tmp_path) + b"/photos"
    os.mkdir(photos)
    for name in (b"\xff\xfe.png", b"two\nlines.png", "größe.png".encode()):
        saved(os.fsdecode(photos + b"/" + name), noise(*SHAPE, 3))
    with open(photos + b"/bad\n\xff.png", "wb"):
        pass
    assert run(os.fsdecode(photos), "-c", checkpoint, "-o", tmp_path / "out") == 1
    assert len(os.listdir(tmp_path / "out")) == 3
    assert capsys.readouterr().err.count("\n") == 1


def test_a_folder_of_many_sizes_shares_programs(tmp_path, checkpoint, monkeypatch):
    photos = tmp_path / "photos"
    photos.mkdir()
    for index in range(10):
        saved(photos / f"{index}.png", noise(8 + 4 * index, 12, 3, seed=index))
    (photos / "damaged.png").write_text("no picture")
    told = []
    compile_for = inference.Deblurrer.compile_for
    monkeypatch.setattr(
        inference.Deblurrer,
        "compile_for",
        lambda self, sizes: told.extend(sizes) or compile_for(self, sizes),
    )
    assert run(photos, "-c", checkpoint, "-o", tmp_path / "out", "--quiet") == 1
    assert sorted(told) == [(8 + 4 * index, 12) for index in range(10)]
    alone = inference.Deblurrer(checkpoint)
    for index in (0, 4, 9):
        difference = pixels(tmp_path / f"out/{index}.png").astype(int) - alone(
            pixels(photos / f"{index}.png")
        )
        assert np.abs(difference).max() <= 1
