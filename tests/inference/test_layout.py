"""The plan: no entry of a folder stops the others."""

import inspect
import os
import sys
import tracemalloc

import pytest

from dmphn_jax.errors import UserError
from dmphn_jax.inference import folders
from dmphn_jax.inference.jobs import Job
from dmphn_jax.inference.layout import plan
from tests.support.pictures import noise, saved


def planned(folder, **options):
    """Source -> problem of every job, by names."""
    laid_out = plan([str(folder)], str(folder.parent / "out"), **options).jobs
    return {os.path.relpath(job.source, folder): job.problem for job in laid_out}


def test_plan_does_not_touch_the_disk(tmp_path):
    saved(tmp_path / "a.png", noise(4, 4, 3))
    laid_out, ignored = plan([str(tmp_path / "a.png")], str(tmp_path / "out"))
    assert laid_out == [Job(str(tmp_path / "a.png"), str(tmp_path / "out" / "a.png"))]
    assert not ignored
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError):
        plan([str(tmp_path / "b.png")], str(tmp_path / "out"))


def test_what_is_given_twice_is_one_job(tmp_path):
    photos = tmp_path / "photos"
    (photos / "x.png").mkdir(parents=True)  # no image: a problem that is told once
    saved(photos / "a.png", noise(4, 4, 3))
    jobs = plan([str(photos)] * 2, str(tmp_path / "out")).jobs
    assert [os.path.basename(job.source) for job in jobs] == ["a.png", "x.png"]
    assert jobs[1].problem


def test_of_two_files_for_one_output_the_one_that_keeps_its_name_is_done(tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("a.gif", "a.png", "b.png", "c.bmp", "c.webp"):
        (photos / name).touch()
    problems = planned(photos)
    assert [name for name, problem in problems.items() if problem] == ["a.gif"]
    assert "a.png claims too" in problems["a.gif"]
    problems = planned(photos, format="PNG")
    assert [name for name, problem in problems.items() if not problem] == ["a.png", "b.png"]
    assert "c.webp claims too" in problems["c.bmp"]
    assert "c.bmp claims too" in problems["c.webp"]


def test_an_entry_that_is_another_ones_output_is_refused_alone(tmp_path):
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    out.mkdir()
    for path in (photos / "a.png", photos / "c.png", out / "a.png"):
        path.touch()
    (photos / "b.png").symlink_to(out / "a.png")
    problems = planned(photos, overwrite=True)
    assert problems["c.png"] is None
    assert "over another input" in problems["a.png"]


def test_folders_that_cannot_be_read_are_told(tmp_path, monkeypatch):
    photos = tmp_path / "photos"
    (photos / "closed").mkdir(parents=True)
    (photos / "open").mkdir()
    for name in ("a.png", "closed/b.png", "open/c.png"):
        (photos / name).touch()
    scandir = os.scandir

    def refuse(path):  # permissions do not bind root
        if os.path.basename(path) == "closed":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(folders.os, "scandir", refuse)
    assert planned(photos) == {
        "a.png": None,
        "closed": "folder cannot be read: Permission denied",
        "open/c.png": None,
    }


def test_folders_named_like_images_are_told(tmp_path):
    photos = tmp_path / "photos"
    (photos / "empty.png" / "below").mkdir(parents=True)
    (photos / "full.png").mkdir()
    (photos / "full.png" / "x.png").touch()
    (photos / "up.png").symlink_to(photos)
    message = "a folder, not an image"
    assert planned(photos) == {"empty.png": message, "full.png/x.png": None, "up.png": message}


def test_depth_is_no_matter(tmp_path):
    folder = tmp_path / "photos"
    for _ in range(200):
        folder /= "d"
    folder.mkdir(parents=True)
    (folder / "a.png").touch()
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack()) + 100)
    try:
        assert list(planned(tmp_path / "photos").values()) == [None]
    finally:
        sys.setrecursionlimit(before)


class _Listing:
    """A folder of 100,000 files of which one is an image, as `os.scandir` lists it."""

    def __enter__(self):
        return (_Entry(f"x.{i}" if i % 2 else f"{i}.txt" if i else "a.png") for i in range(100_000))

    def __exit__(self, *_):
        pass


class _Entry:
    def __init__(self, name):
        self.name = name

    def is_dir(self):
        return False


def test_other_files_take_no_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(folders.os, "scandir", lambda _: _Listing())
    tracemalloc.start()
    laid_out, ignored = plan([str(tmp_path)], str(tmp_path / "out"))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(laid_out) == 1
    assert sum(ignored.values()) == 99_999
    assert ignored[".txt"] == 49_999
    assert most < 1_000_000
