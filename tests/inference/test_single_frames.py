"""A film to a folder of its frames: what goes on, and what is another run's."""

import numpy as np
import pytest
from PIL import Image

from tests.support.films import deblur, make_film, pictures

pytest.importorskip("av")

COUNT = 12


@pytest.fixture
def film(tmp_path):
    return make_film(tmp_path / "in.mkv", pictures(COUNT), sound=None)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "frames"


def make(film, folder, value=100, **options):
    """Makes frames of one value; returns the Result and how many frames the network saw."""
    calls = []

    def flat(image):
        calls.append(1)
        return np.full_like(image, value)

    return deblur(film, folder, flat, frames=".png", **options), len(calls)


def values(folder):
    """number -> the value of a frame."""
    return {int(path.stem): np.asarray(Image.open(path)).max() for path in folder.glob("*.png")}


def test_frames_that_are_missing_are_made_and_no_other(film, folder):
    assert not make(film, folder)[0].failure
    assert values(folder) == dict.fromkeys(range(COUNT), 100)
    for number in (3, 4, 9):
        (folder / f"{number:06}.png").unlink()
    before = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.png")}
    result, calls = make(film, folder)
    assert not result.failure
    assert calls == 8  # a batch, filled up
    assert values(folder) == dict.fromkeys(range(COUNT), 100)
    assert before.items() <= {p.name: p.stat().st_mtime_ns for p in folder.glob("*.png")}.items()
    assert make(film, folder)[1] == 0


def test_ranges_of_one_film_share_a_folder(film, folder):
    for first, stop in ((0, 4), (2, 7), (7, None)):
        assert not make(film, folder, first=first, stop=stop)[0].failure
    assert values(folder) == dict.fromkeys(range(COUNT), 100)


@pytest.mark.parametrize("change", ["model", "source", "nothing tells", "damaged"])
def test_frames_of_another_run_are_not_gone_on_with(film, folder, change):
    """Before, they stayed, and the run went on behind them without a word."""
    assert not make(film, folder, stop=5)[0].failure
    (record,) = folder.glob(".*")
    options, reason = {}, "nothing tells what made them"
    if change == "model":
        options, reason = {"model": {"the checkpoint": "another"}}, "the checkpoint is another now"
    elif change == "source":
        make_film(film, pictures(COUNT + 1), sound=None)
        reason = "is another now"
    elif change == "damaged":
        record.write_text("{")
    else:
        record.unlink()
    result, calls = make(film, folder, 200, **options)
    assert "holds frames" in result.failure
    assert reason in result.failure
    assert "--overwrite" in result.failure
    assert calls == 0
    assert values(folder) == dict.fromkeys(range(5), 100)
    assert not make(film, folder, 200, overwrite=True, **options)[0].failure
    assert set(values(folder).values()) == {200}
    assert make(film, folder, 200, **options)[1] == 0  # they are its own now


def test_overwriting_some_frames_does_not_make_the_others_ones_own(film, folder):
    assert not make(film, folder)[0].failure
    other = {"model": {"the checkpoint": "another"}}
    assert not make(film, folder, 200, stop=4, overwrite=True, **other)[0].failure
    assert "nothing tells" in make(film, folder, 200, **other)[0].failure
    assert "nothing tells" in make(film, folder)[0].failure
    assert not make(film, folder, 200, first=4, overwrite=True, **other)[0].failure
    assert "nothing tells" in make(film, folder, 200, **other)[0].failure  # of the first four


def test_the_quality_of_jpeg_is_a_part_of_what_made_it(film, folder):
    assert not deblur(film, folder, frames=".jpg", stop=4).failure
    assert "--quality is another" in deblur(film, folder, frames=".jpg", quality=50).failure
    assert not deblur(film, folder, frames=".png", quality=50, stop=4).failure
    assert not deblur(film, folder, frames=".png", quality=60).failure


def test_no_frame_in_the_range(film, folder):
    assert "no frame in --frames 50:" in make(film, folder, first=50)[0].failure
    assert not folder.exists()
