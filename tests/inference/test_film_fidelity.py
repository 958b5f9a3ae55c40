"""What of a film's numbers comes through, and what is told where something is lost."""

import numpy as np
import pytest

from dmphn_jax.images import Image as Picture
from dmphn_jax.images import read_image, write_image
from dmphn_jax.video.encoding import Encoding
from tests.support.films import deblur, facts, make_film, pictures
from tests.support.pictures import noise

pytest.importorskip("av")

import av


def ramp(count=2):
    """Gray frames of every level, each 256 columns wide."""
    row = np.arange(256, dtype=np.uint8)[None, :, None]
    return np.broadcast_to(row, (count, 64, 256, 3))


def between(image):
    """Mixtures of neighbouring columns: levels that lie between those of 8 bits."""
    share = np.linspace(0, 1, len(image))[:, None, None]
    mixed = (1 - share) * image + share * np.roll(image, 1, axis=1)
    return np.rint(mixed).astype(image.dtype)


def brightness(path):
    """The first frame's luma, as stored."""
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
        assert frame.format.name == "yuv420p10le"
        return frame.to_ndarray()[: frame.height]


def test_ten_bits_of_eight_are_more_than_256_levels(tmp_path):
    """Before, the network made 8 bits, and a file of 10 held them."""
    source = make_film(tmp_path / "in.mkv", ramp(), codec="ffv1", sound=None)
    output, deep = tmp_path / "out.mkv", Encoding("ffv1", ten_bit=True)
    assert not deblur(source, output, between, encoding=deep).failure
    assert len(np.unique(brightness(output))) > 512

    def coarse(image):
        return (between(image) // 257 * 257).astype(np.uint16)

    assert not deblur(source, tmp_path / "coarse.mkv", coarse, encoding=deep).failure
    assert len(np.unique(brightness(tmp_path / "coarse.mkv"))) <= 256


def test_ten_bits_of_pictures_of_eight(tmp_path):
    seen = []
    for index, image in enumerate(ramp()):
        write_image(tmp_path / "in" / f"{index}.png", Picture(image))
    result = deblur(
        tmp_path / "in",
        tmp_path / "out.mp4",
        lambda image: seen.append(image) or image,
        encoding=Encoding(ten_bit=True),
    )
    assert not result.failure
    assert {image.dtype for image in seen} == {np.dtype(np.uint16)}
    assert facts(tmp_path / "out.mp4").pixel_format == "yuv420p10le"


def test_a_codec_of_ten_bits_gets_them(tmp_path):
    source = make_film(tmp_path / "in.mkv", ramp(), codec="ffv1", sound=None)
    seen = []
    result = deblur(
        source,
        tmp_path / "out.mov",
        lambda image: seen.append(image) or image,
        encoding=Encoding("prores"),
    )
    assert not result.failure
    assert seen[0].dtype == np.uint16


@pytest.mark.parametrize(("ten_bit", "dtype"), [(True, np.uint16), (False, np.uint8)])
@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv420p10le"])
def test_single_frames_are_as_deep_as_told(tmp_path, pixel_format, ten_bit, dtype):
    make = {"codec": "ffv1", "pixel_format": pixel_format}
    source = make_film(tmp_path / "in.mkv", ramp(), sound=None, **make)
    encoding = Encoding(ten_bit=ten_bit)
    assert not deblur(source, tmp_path / "out", frames=".png", encoding=encoding).failure
    assert read_image(tmp_path / "out" / "000000.png").pixels.dtype == dtype


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("suffix", ["mkv", "avi"])
def test_ffv1_of_pictures_is_lossless_and_so_is_ffv1_of_that(tmp_path, suffix, dtype):
    folder, first, second = (tmp_path / name for name in ("in", f"a.{suffix}", f"b.{suffix}"))
    images = [noise(47, 63, 3, dtype=dtype, seed=seed) for seed in range(3)]
    for index, image in enumerate(images):
        write_image(folder / f"{index}.png", Picture(image))
    for source, film in ((folder, first), (first, second)):
        result = deblur(source, film, encoding=Encoding("ffv1"))
        assert (result.failure, result.notes) == (None, ())
        back = tmp_path / f"frames of {film.name}"
        assert not deblur(film, back, frames=".png").failure
        for index, image in enumerate(images):
            np.testing.assert_array_equal(read_image(back / f"{index:06}.png").pixels, image)


def test_eight_bits_of_sixteen_in_ffv1_where_told(tmp_path):
    folder = tmp_path / "in"
    write_image(folder / "0.png", Picture(noise(48, 64, 3, dtype=np.uint16)))
    result = deblur(folder, tmp_path / "a.mkv", encoding=Encoding("ffv1", ten_bit=False))
    assert (result.failure, result.notes) == (None, ())
    assert facts(tmp_path / "a.mkv").pixel_format == "bgr0"


def test_deeper_numbers_that_become_ten_bits_are_told(tmp_path):
    make = {"codec": "ffv1", "pixel_format": "yuv420p12le"}
    source = make_film(tmp_path / "in.mkv", pictures(2), sound=None, **make)
    assert deblur(source, tmp_path / "a.mp4").notes == (f"{source}: 12 bits per channel become 10",)
    assert deblur(source, tmp_path / "b.mp4", encoding=Encoding(ten_bit=False)).notes == ()
    folder = tmp_path / "frames"
    write_image(folder / "0.png", Picture(noise(48, 64, 3, dtype=np.uint16)))
    (note,) = deblur(folder, tmp_path / "c.mp4").notes
    assert note.endswith("16 bits per channel become 10")


@pytest.mark.parametrize("kind", ["yuva420p", "bgra", "vp9", "pictures"])
def test_transparency_that_is_lost_is_told(tmp_path, kind):
    source = tmp_path / "in.mkv"
    if kind == "pictures":
        source = tmp_path / "in"
        for index, alpha in enumerate((None, noise(48, 64))):
            write_image(source / f"{index}.png", Picture(noise(48, 64, 3), alpha=alpha))
    elif kind == "vp9":
        make = {"codec": "libvpx-vp9", "pixel_format": "yuva420p"}
        make_film(source, pictures(2), sound=None, **make)
    else:
        make_film(source, pictures(2), codec="ffv1", pixel_format=kind, sound=None)
    (note,) = deblur(source, tmp_path / "out.mp4").notes
    assert note == f"{source}: its transparency is not kept"


def test_a_higher_crf_is_a_smaller_file_of_the_same_frames(tmp_path):
    source = make_film(tmp_path / "in.mkv", pictures(30, (96, 128)), codec="ffv1", sound=None)
    sizes, errors = [], []
    for crf in (1, 18, 40):
        output = tmp_path / f"{crf}.mp4"
        assert not deblur(source, output, encoding=Encoding("h264", crf=crf)).failure
        sizes.append(output.stat().st_size)
        before, after = facts(source), facts(output)
        assert after.times == before.times
        errors.append(np.abs(after.images.astype(int) - before.images).mean())
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == 3
    assert errors == sorted(errors)
