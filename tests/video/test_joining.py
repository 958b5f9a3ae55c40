"""What of a film beside its frames is kept, and what is told where it is not."""

from fractions import Fraction

import pytest

from tests.support.films import deblur, make_film, pictures, remake

pytest.importorskip("av")

import av

CHAPTERS = [
    {
        "id": number,
        "start": 500 * number,
        "end": 500 * (number + 1),
        "time_base": Fraction(1, 1000),
        "metadata": {"title": f"chapter {number}"},
    }
    for number in (0, 1)
]


def chapters_of(path):
    """(title, beginning in seconds) of each."""
    with av.open(str(path)) as container:
        return [
            (chapter["metadata"]["title"], float(chapter["start"] * chapter["time_base"]))
            for chapter in container.chapters()
        ]


@pytest.fixture
def film(tmp_path):
    return make_film(tmp_path / "plain.mkv", pictures(60), sound=None)


@pytest.mark.parametrize("suffix", ["mkv", "mp4", "mov", "avi"])
def test_chapters_are_kept_or_told_of(tmp_path, film, suffix):
    source = remake(tmp_path / "in.mkv", film, chapters=CHAPTERS)
    assert chapters_of(source) == [("chapter 0", 0), ("chapter 1", 0.5)]
    result = deblur(source, tmp_path / f"out.{suffix}")
    if suffix == "avi":
        assert result.notes == (f"{source}: chapters are not kept: .avi cannot hold them",)
        assert chapters_of(tmp_path / "out.avi") == []
    else:
        assert result.notes == ()
        assert chapters_of(tmp_path / f"out.{suffix}") == chapters_of(source)


def test_a_cut_tells_of_the_chapters_it_loses(tmp_path, film):
    source = remake(tmp_path / "in.mkv", film, chapters=CHAPTERS)
    result = deblur(source, tmp_path / "out.mkv", first=10, stop=50)
    assert result.notes == (f"{source}: chapters are not kept: this is a part of the film",)
    assert deblur(film, tmp_path / "other.mkv", first=10, stop=50).notes == ()


def test_a_second_film_beside_the_first_is_kept_and_told_of(tmp_path, film):
    source = remake(tmp_path / "in.mkv", film, second=make_film(tmp_path / "b.mkv", sound=None))
    result = deblur(source, tmp_path / "out.mkv", lambda image: 255 - image)
    assert result.notes == (f"{source}: stream 1 (video) is kept as it is, not deblurred",)

    def second(path):
        with av.open(str(path)) as container:
            return [bytes(packet) for packet in container.demux(container.streams.video[1])]

    assert second(tmp_path / "out.mkv") == second(source)
