"""Colours alone: the way training pairs are read."""

import numpy as np
import PIL.Image
import PIL.ImageCms
import PIL.ImageOps
import pytest

from dmphn_jax.images import (
    ImageError,
    read_image,
    read_rgb,
    read_size,
)
from tests.support.pictures import bomb, noise, png_16, saved

# Pillow warns of the damage these tests make.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
def test_rgb_alone_is_read_images_pixels(tmp_path, mode):
    path = saved(tmp_path / "x.tif", noise(9, 12, 4), mode)
    array = read_rgb(path)
    np.testing.assert_array_equal(array, read_image(path).pixels)
    np.testing.assert_array_equal(array, read_rgb(path.read_bytes()))
    array[0] = 0  # callers may write
    assert read_size(path) == array.shape[:2]


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_rgb_alone_of_16_bits_is_rounded(tmp_path, channels):
    (tmp_path / "x.png").write_bytes(png_16(noise(6, 7, channels, dtype=np.uint16)))
    array = read_rgb(tmp_path / "x.png")
    assert array.dtype == np.uint8
    expected = np.rint(read_image(tmp_path / "x.png").pixels / 257)
    np.testing.assert_array_equal(array, expected)


@pytest.mark.parametrize("kind", ["png", "tif", "jpg", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_rgb_alone_and_its_size_are_upright(tmp_path, orientation, kind):
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path / f"x.{kind}", noise(6, 9, 3), exif=exif)
    np.testing.assert_array_equal(read_rgb(path), read_image(path).pixels)
    assert read_size(path) == ((9, 6) if orientation > 4 else (6, 9))


def test_rgb_alone_refuses_by_the_name_it_is_given(tmp_path):
    path = saved(tmp_path / "x.png", noise(64, 64, 3))
    for source, name in ((path, str(path)), (path.read_bytes(), "an image")):
        assert read_rgb(source).shape == (64, 64, 3)
        damaged = source[:5000] if isinstance(source, bytes) else path
        path.write_bytes(path.read_bytes()[:5000])
        with pytest.raises(ImageError, match=f"^{name}: "):
            read_rgb(damaged)
        with pytest.raises(ImageError, match=r"^pair 7: "):
            read_rgb(damaged, "pair 7")
        with pytest.raises(ImageError, match=r"^pair 7: "):
            read_size(bomb(), "pair 7")
        saved(path, noise(64, 64, 3))
