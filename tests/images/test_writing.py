"""What is written: exact, whole, and as other readers see it."""

import numpy as np
import PIL.Image
import PIL.ImageCms
import PIL.ImageOps
import pytest
import tifffile

from dmphn_jax import files
from dmphn_jax.images import (
    Image,
    ImageError,
    encode_image,
    read_image,
    write_image,
)
from tests.support.pictures import noise

# Pillow warns of the damage these tests make.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")
EXACT = ["png", "tif", "webp"]  # hold RGB and alpha without loss (WebP at quality 100)


@pytest.mark.parametrize("extension", EXACT)
@pytest.mark.parametrize("gray", [False, True])
@pytest.mark.parametrize("with_alpha", [False, True])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("shape", [(1, 1), (33, 17)])
def test_round_trip_is_exact(tmp_path, extension, gray, with_alpha, dtype, shape):
    if extension == "webp" and dtype == np.uint16:
        return  # see test_16_bits_are_rounded_where_they_do_not_fit
    pixels = noise(*shape, 1, dtype=dtype).repeat(3, -1) if gray else noise(*shape, 3, dtype=dtype)
    alpha = noise(*shape, dtype=dtype, seed=1) if with_alpha else None
    assert write_image(tmp_path / f"x.{extension}", Image(pixels, alpha, gray), quality=100) == ()
    image = read_image(tmp_path / f"x.{extension}")
    assert image.pixels.dtype == dtype
    np.testing.assert_array_equal(image.pixels, pixels)
    if with_alpha and (alpha < np.iinfo(dtype).max).any():
        np.testing.assert_array_equal(image.alpha, alpha)


def test_written_16_bits_are_what_other_readers_see(tmp_path):
    import cv2

    pixels = noise(700, 500, 3, dtype=np.uint16)  # several strips
    for extension in ("png", "tif"):
        path = tmp_path / f"x.{extension}"
        write_image(path, Image(pixels))
        np.testing.assert_array_equal(cv2.imread(str(path), -1)[..., ::-1], pixels)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "x.tif"), pixels)


def test_gray_stays_gray_though_the_network_colours_it(tmp_path):
    gray = Image(np.full((4, 4, 3), 100, np.uint8), gray=True)
    tinted = gray.with_pixels(np.full((4, 4, 3), (101, 100, 99), np.uint8))
    write_image(tmp_path / "x.png", tinted)
    stored = PIL.Image.open(tmp_path / "x.png")
    assert stored.mode == "L"
    assert stored.getpixel((0, 0)) == round(0.299 * 101 + 0.587 * 100 + 0.114 * 99)


def test_16_bits_are_rounded_where_they_do_not_fit(tmp_path):
    ramp = np.arange(65536, dtype=np.uint16).reshape(256, 256)[..., None].repeat(3, -1)
    notes = write_image(tmp_path / "x.bmp", Image(ramp))
    assert len(notes) == 1
    stored = read_image(tmp_path / "x.bmp").pixels
    np.testing.assert_array_equal(stored, np.rint(ramp / 257).astype(np.uint8))


@pytest.mark.parametrize("extension", ["jpg", "bmp"])
def test_transparency_is_laid_on_white_where_it_does_not_fit(tmp_path, extension):
    pixels = np.zeros((16, 16, 3), np.uint8)
    alpha = np.full((16, 16), 51, np.uint8)  # a fifth
    notes = write_image(tmp_path / f"x.{extension}", Image(pixels, alpha))
    assert len(notes) == 1
    assert abs(int(read_image(tmp_path / f"x.{extension}").pixels.mean()) - 204) <= 1


def test_quality_changes_the_size_and_sides_are_limited():
    image = Image(noise(64, 64, 3))
    sizes = [len(encode_image(image, "JPEG", quality)[0]) for quality in (30, 75, 95)]
    assert sizes == sorted(sizes)
    with pytest.raises(ImageError, match="16383"):
        encode_image(Image(np.zeros((1, 16384, 3), np.uint8)), "WEBP")


def test_failed_writing_leaves_nothing_and_keeps_the_old_file(tmp_path, monkeypatch):
    image = Image(noise(4, 4, 3))
    target = tmp_path / "x.png"
    target.write_bytes(b"old")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "replace", fail)
    with pytest.raises(ImageError, match="No space left"):
        write_image(target, image)
    assert [p.name for p in tmp_path.iterdir()] == ["x.png"]
    assert target.read_bytes() == b"old"

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(files.os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_image(target, image)
    assert [p.name for p in tmp_path.iterdir()] == ["x.png"]
    monkeypatch.undo()
    write_image(target, image)
    np.testing.assert_array_equal(read_image(target).pixels, image.pixels)


def test_new_files_have_the_usual_permissions(tmp_path):
    (tmp_path / "plain").write_bytes(b"")
    write_image(tmp_path / "x.png", Image(noise(2, 2, 3)))
    assert (tmp_path / "x.png").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_wrong_arrays_and_names_are_told(tmp_path):
    with pytest.raises(TypeError):
        Image(np.zeros((2, 2, 3), np.float32))
    with pytest.raises(ValueError):
        Image(np.zeros((2, 2), np.uint8))
    with pytest.raises(ValueError):
        Image(np.zeros((2, 2, 3), np.uint8), np.zeros((2, 3), np.uint8))
    with pytest.raises(ImageError, match="no format"):
        write_image(tmp_path / "x.gif", Image(noise(2, 2, 3)))
