"""Every kind of picture that is read, in full."""

import numpy as np
import PIL.Image
import PIL.ImageCms
import PIL.ImageOps
import pytest
import tifffile

from dmphn_jax.images import (
    read_image,
)
from tests.support.pictures import noise, png_16, saved

# Pillow warns of the damage these tests make.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")


@pytest.mark.parametrize("extension", ["png", "bmp", "tif", "webp", "gif"])
@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB"])
def test_every_mode_reads_as_pillow_converts_it(tmp_path, mode, extension):
    path = tmp_path / f"x.{extension}"
    try:
        saved(path, noise(9, 12, 4), mode, **({"lossless": True} if extension == "webp" else {}))
    except (OSError, ValueError):
        return  # the format does not hold this mode
    image = read_image(path)
    stored = PIL.Image.open(path)
    gray = stored.mode in ("1", "L", "LA")
    assert image.gray == gray
    assert image.pixels.dtype == np.uint8
    if stored.mode != "LAB":
        np.testing.assert_array_equal(image.pixels, np.asarray(stored.convert("RGB")))
    assert (image.alpha is not None) == stored.has_transparency_data
    if image.alpha is not None:
        np.testing.assert_array_equal(image.alpha, np.asarray(stored.convert("RGBA"))[..., 3])


def test_lab_goes_to_srgb(tmp_path):
    lab = np.zeros((4, 4, 3), np.uint8)
    lab[:] = 136, 208, 195  # the sRGB red in D50 Lab: L 54, a 81, b 70, stored as a signed byte
    PIL.Image.frombytes("LAB", (4, 4), (lab ^ np.uint8([0, 128, 128])).tobytes()).save(
        tmp_path / "x.tif"
    )
    red = read_image(tmp_path / "x.tif").pixels[0, 0].astype(int)
    assert np.abs(red - [255, 0, 0]).max() < 12


def test_palette_transparency_becomes_alpha(tmp_path):
    picture = PIL.Image.fromarray(noise(8, 8, 3)).quantize(16)
    picture.save(tmp_path / "x.png", transparency=3)
    image = read_image(tmp_path / "x.png")
    np.testing.assert_array_equal(image.alpha == 0, np.asarray(picture) == 3)


def test_cmyk_jpeg_reads_as_srgb_without_the_cmyk_profile(tmp_path):
    saved(tmp_path / "x.jpg", np.full((16, 16, 3), (200, 60, 20), np.uint8), "CMYK", quality=95)
    image = read_image(tmp_path / "x.jpg")
    assert np.abs(image.pixels.astype(int) - (200, 60, 20)).max() <= 4
    assert image.metadata.icc is None


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_16_bit_png_is_read_in_full(tmp_path, channels):
    array = noise(6, 7, channels, dtype=np.uint16)
    (tmp_path / "x.png").write_bytes(png_16(array))
    image = read_image(tmp_path / "x.png")
    assert image.pixels.dtype == np.uint16
    assert image.gray == (channels < 3)
    colours = array[..., :1].repeat(3, -1) if channels < 3 else array[..., :3]
    np.testing.assert_array_equal(image.pixels, colours)
    if channels in (2, 4):
        np.testing.assert_array_equal(image.alpha, array[..., -1])
    else:
        assert image.alpha is None


@pytest.mark.parametrize(
    ("channels", "options"),
    [
        (1, {"photometric": "minisblack"}),
        (1, {"photometric": "miniswhite"}),
        (3, {"photometric": "rgb"}),
        (3, {"photometric": "rgb", "byteorder": ">"}),
        (4, {"photometric": "rgb", "extrasamples": ["unassalpha"]}),
        (4, {"photometric": "rgb", "extrasamples": ["assocalpha"]}),
        (4, {"photometric": "rgb", "extrasamples": ["unspecified"]}),
    ],
)
def test_16_bit_tiff_is_read_in_full(tmp_path, channels, options):
    array = noise(6, 7, channels, dtype=np.uint16)
    stored = array.copy()
    if options.get("extrasamples") == ["assocalpha"]:
        array[..., 3] = array[..., 3] // 2 + 32768
        stored = array.copy()
        stored[..., :3] = np.rint(array[..., :3] * (array[..., 3:] / 65535))
    tifffile.imwrite(tmp_path / "x.tif", stored[..., 0] if channels == 1 else stored, **options)
    image = read_image(tmp_path / "x.tif")
    expected = array[..., :3] if channels > 1 else array.repeat(3, -1)
    if options["photometric"] == "miniswhite":
        expected = 65535 - expected
    tolerance = 1 if options.get("extrasamples") == ["assocalpha"] else 0
    assert np.abs(image.pixels.astype(int) - expected).max() <= tolerance
    if options.get("extrasamples") in (["unassalpha"], ["assocalpha"]):
        np.testing.assert_array_equal(image.alpha, array[..., 3])
    else:
        assert image.alpha is None
    assert bool(image.notes) == (options.get("extrasamples") == ["unspecified"])


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_png_colour_marked_transparent_becomes_alpha(tmp_path, channels, dtype):
    array = noise(6, 7, channels, dtype=dtype)
    clear = array[2, 3]
    if dtype == np.uint16:
        chunk = (b"tRNS", clear.astype(">u2").tobytes())
        (tmp_path / "x.png").write_bytes(png_16(array, [chunk]))
    else:
        saved(
            tmp_path / "x.png",
            array[..., 0] if channels == 1 else array,
            transparency=int(clear[0]) if channels == 1 else tuple(int(c) for c in clear),
        )
    image = read_image(tmp_path / "x.png")
    assert image.pixels.dtype == dtype
    np.testing.assert_array_equal(image.pixels, array.repeat(3, -1) if channels == 1 else array)
    np.testing.assert_array_equal(image.alpha == 0, (array == clear).all(-1))
    assert image.alpha.max() == np.iinfo(dtype).max
