"""A film's frames and what holds for all of them."""

from contextlib import closing
from fractions import Fraction

import numpy as np
import pytest

from tests.support.films import make_film, pictures

pytest.importorskip("av")

from dmphn_jax.video.film import FilmInfo, FilmReader
from dmphn_jax.video.parts import _delay, part_length


def reader(path):
    return closing(FilmReader(path, max_pixels=10**8))


def test_skipping_gives_the_same_frames(tmp_path):
    film = make_film(tmp_path / "a.mp4", pictures(40), sound=None)
    with reader(film) as whole:
        frames = list(whole.frames())
    with reader(film) as part:
        some = list(part.frames(13, 29))
    assert [frame.time for frame in some] == [frame.time for frame in frames[13:29]]
    for one, other in zip(some, frames[13:29]):
        np.testing.assert_array_equal(one.pixels, other.pixels)


def test_frames_larger_than_the_file_says_are_not_decoded(tmp_path):
    """Before, they took their memory and were seen to be too large then."""
    import av

    whole = b""
    for size in ((48, 64), (480, 640)):
        with av.open(str(tmp_path / "part.h264"), "w") as container:
            stream = container.add_stream("libx264", rate=30)
            stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
            for image in pictures(10, size):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image)))
            container.mux(stream.encode())
        whole += (tmp_path / "part.h264").read_bytes()
    (tmp_path / "a.h264").write_bytes(whole)
    with closing(FilmReader(tmp_path / "a.h264", max_pixels=48 * 64)) as film:
        assert {frame.pixels.shape for frame in film.frames()} == {(48, 64, 3)}
        assert film.notes()[0].startswith("damaged")


@pytest.mark.parametrize("codec", ["mpeg4", "mjpeg"])
def test_an_avi_has_even_times(tmp_path, codec):
    pixel_format = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    full = codec == "mjpeg"
    import av

    with av.open(str(tmp_path / "a.avi"), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width, stream.pix_fmt = 48, 64, pixel_format
        for image in pictures(12):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image)))
        container.mux(stream.encode())
    with reader(tmp_path / "a.avi") as film:
        times = [frame.time * film.info.time_base for frame in film.frames()]
        assert film.info.colors.full == full
    assert [time - times[0] for time in times] == [Fraction(k, 25) for k in range(12)]


@pytest.mark.parametrize(("height", "matrix"), [(480, 6), (720, 1)])
def test_untagged_matrix_goes_by_the_height(tmp_path, height, matrix):
    images = np.full((1, height, 64, 3), 90, np.uint8)
    with reader(make_film(tmp_path / "a.mp4", images, matrix=2, sound=None)) as film:
        assert film.info.colors.matrix == matrix


@pytest.mark.parametrize("chroma", ["420", "422", "444"])
def test_chroma_is_told(tmp_path, chroma):
    make = {"codec": "ffv1", "pixel_format": f"yuv{chroma}p"}
    with reader(make_film(tmp_path / "a.mkv", pictures(1), sound=None, **make)) as film:
        assert film.info.chroma == chroma


def test_part_lengths():
    def info(height, width):
        return FilmInfo(height, width, 8, Fraction(1, 30), Fraction(30), 0)

    assert part_length(info(720, 1280), 1) == 238
    assert part_length(info(2160, 3840), 8) == 32
    assert part_length(info(48, 64), 8) == 256
    assert _delay([0, 3, 1, 2]) == 1
    assert _delay([0, 4, 2, 1, 3]) == 2
    assert _delay([0, 1, 2]) == 0
