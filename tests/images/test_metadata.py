"""Orientation, and what a file says beside its pixels."""

import io

import numpy as np
import PIL.Image
import PIL.ImageCms
import PIL.ImageFile
import PIL.ImageOps
import PIL.PngImagePlugin
import pytest
import tifffile

from dmphn_jax.images import (
    Image,
    Metadata,
    encode_image,
    read_image,
    read_rgb,
    read_size,
    write_image,
)
from tests.support.pictures import noise, png_16, saved

# Pillow warns of the damage these tests make.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")
SRGB = PIL.ImageCms.ImageCmsProfile(PIL.ImageCms.createProfile("sRGB")).tobytes()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["jpg", "png", "webp", "tif", "deep.png", "deep.tif"])
def test_orientation_is_honoured_once(tmp_path, kind, orientation):
    picture = np.zeros((32, 64, 3), np.uint8)
    picture[:16, :16], picture[16:, 32:] = (255, 0, 0), (0, 0, 255)
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"x.{kind}"
    if kind == "deep.png":
        path.write_bytes(png_16(picture.astype(np.uint16) * 257, [(b"eXIf", exif.tobytes()[6:])]))
    elif kind == "deep.tif":
        tag = (274, "H", 1, orientation, True)
        tifffile.imwrite(path, picture.astype(np.uint16) * 257, photometric="rgb", extratags=[tag])
    else:
        saved(path, picture, exif=exif, quality=100)
    upright = np.asarray(
        PIL.ImageOps.exif_transpose(_with_orientation(picture, orientation)), dtype=int
    )
    image = read_image(path)
    scale = 257 if "deep" in kind else 1
    assert image.pixels.shape == upright.shape
    assert image.pixels.dtype == (np.uint16 if "deep" in kind else np.uint8)
    assert np.abs(image.pixels.astype(int) / scale - upright).mean() <= 3
    # Written and read again it stays upright: nothing turns it a second time.
    write_image(tmp_path / f"y.{kind}", image, quality=100)
    again = PIL.ImageOps.exif_transpose(PIL.Image.open(tmp_path / f"y.{kind}"))
    assert again.size == upright.shape[1::-1]
    assert np.abs(np.asarray(again).astype(int) - upright).mean() <= 3


def _with_orientation(picture, orientation):
    file = io.BytesIO()
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    PIL.Image.fromarray(picture).save(file, "PNG", exif=exif)
    return PIL.Image.open(file)


def test_xmp_orientation_is_reset(tmp_path):
    packet = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><a tiff:Orientation="6"/></x:xmpmeta>'
    saved(tmp_path / "x.jpg", noise(8, 16, 3), xmp=packet)
    image = read_image(tmp_path / "x.jpg")
    assert image.pixels.shape == (16, 8, 3)
    assert b'tiff:Orientation="1"' in image.metadata.xmp


def test_a_pngs_xmp_orientation_is_one_for_all_readers(tmp_path):
    packet = '<x:xmpmeta xmlns:x="adobe:ns:meta/"><a tiff:Orientation="6"/></x:xmpmeta>'
    text = PIL.PngImagePlugin.PngInfo()
    text.add_itxt("XML:com.adobe.xmp", packet)
    PIL.Image.fromarray(noise(8, 16, 3)).save(tmp_path / "x.png", pnginfo=text)
    image = read_image(tmp_path / "x.png").pixels
    assert image.shape == (16, 8, 3)
    np.testing.assert_array_equal(read_rgb(tmp_path / "x.png"), image)
    assert read_size(tmp_path / "x.png") == (16, 8)


@pytest.mark.parametrize("extension", ["png", "jpg", "webp", "tif", "deep.png", "deep.tif"])
def test_metadata_comes_along(tmp_path, extension):
    exif = PIL.Image.Exif()
    exif[271], exif[274] = "Maker", 6
    exif.get_ifd(0x8769)[0x9003] = "2020:01:02 03:04:05"
    exif.get_ifd(0x8769)[0xA002], exif.get_ifd(0x8769)[0xA003] = 7, 5
    exif.get_ifd(0x8825)[1] = "N"
    options = {"exif": exif, "icc_profile": SRGB, "dpi": (300, 300), "xmp": b"<x>y</x>"}
    image = read_image(saved(tmp_path / "in.jpg", noise(5, 7, 3), **options))
    if extension.startswith("deep"):
        image = Image(image.pixels.astype(np.uint16) * 257, metadata=image.metadata)
    path = tmp_path / f"out.{extension}"
    assert write_image(path, image) == ()
    stored = PIL.Image.open(path)
    stored.load()
    tags = stored.getexif()
    assert tags[271] == "Maker"
    assert tags.get(274, 1) == 1
    assert tags.get_ifd(0x8769)[0x9003] == "2020:01:02 03:04:05"
    assert (tags.get_ifd(0x8769)[0xA002], tags.get_ifd(0x8769)[0xA003]) == (5, 7)
    assert tags.get_ifd(0x8825)[1] == "N"
    assert stored.info["icc_profile"] == SRGB
    again = read_image(path).metadata
    assert again.xmp == b"<x>y</x>"
    assert extension == "webp" or again.dpi == pytest.approx((300, 300), abs=0.01)
    assert again.icc == SRGB


def test_tiff_tags_of_the_old_layout_do_not_leak(tmp_path):
    picture = noise(40, 30, 3)
    tifffile.imwrite(tmp_path / "x.tif", picture, photometric="rgb", tile=(16, 16), software="s")
    image = read_image(tmp_path / "x.tif")
    for extension in ("tif", "png", "jpg"):
        write_image(tmp_path / f"y.{extension}", image)
        tags = PIL.Image.open(tmp_path / f"y.{extension}").getexif()
        assert tags[305] == "s"
        assert not {322, 323, 324, 325} & set(tags)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "y.tif"), picture)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_bigtiff_hands_on_plain_exif(tmp_path, dtype):
    picture = noise(40, 30, 3, dtype=dtype)
    options = {"photometric": "rgb", "software": "s", "description": "d"}
    tifffile.imwrite(tmp_path / "x.tif", picture, bigtiff=True, **options)
    image = read_image(tmp_path / "x.tif")
    np.testing.assert_array_equal(image.pixels, picture)
    assert image.metadata.exif.startswith(b"II*\0")
    for extension in ("tif", "png", "jpg", "webp"):
        write_image(tmp_path / f"y.{extension}", image)
        tags = PIL.Image.open(tmp_path / f"y.{extension}").getexif()
        assert (tags[305], tags[270]) == ("s", "d")
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "y.tif"), picture)


def test_what_lies_behind_16_bit_pixels_is_read_too(tmp_path):
    exif = PIL.Image.Exif()
    exif[271], exif[274] = "Maker", 6
    behind = [(b"eXIf", exif.tobytes()[6:]), (b"tEXt", b"Title\0a cat")]
    picture = noise(6, 9, 3, dtype=np.uint16)
    (tmp_path / "x.png").write_bytes(png_16(picture, behind=behind))
    image = read_image(tmp_path / "x.png")
    np.testing.assert_array_equal(image.pixels, np.rot90(picture, -1))
    assert image.metadata.text == (("Title", "a cat"),)
    write_image(tmp_path / "y.png", image)
    assert PIL.Image.open(tmp_path / "y.png").getexif()[271] == "Maker"


@pytest.mark.parametrize("kind", ["png", "tif"])
def test_16_bit_colours_are_decoded_once(tmp_path, monkeypatch, kind):
    write_image(tmp_path / f"x.{kind}", Image(noise(6, 9, 3, dtype=np.uint16)))
    sizes = []
    load = PIL.ImageFile.ImageFile.load

    def counted(image):
        sizes.append(image.size)
        return load(image)

    monkeypatch.setattr(PIL.ImageFile.ImageFile, "load", counted)
    assert read_image(tmp_path / f"x.{kind}").pixels.shape == (6, 9, 3)
    assert (9, 6) not in sizes  # Pillow's part is the metadata


def test_png_text_comes_along(tmp_path):
    from PIL.PngImagePlugin import PngInfo

    text = PngInfo()
    text.add_text("Title", "a cat")
    image = read_image(saved(tmp_path / "x.png", noise(4, 4, 3), pnginfo=text))
    write_image(tmp_path / "y.png", image)
    assert PIL.Image.open(tmp_path / "y.png").text["Title"] == "a cat"


def test_metadata_too_large_for_jpeg_does_not_cost_the_picture():
    image = Image(noise(8, 8, 3), metadata=Metadata(xmp=b"x" * 100_000))
    data, notes = encode_image(image, "JPEG")
    assert len(notes) == 1
    assert PIL.Image.open(io.BytesIO(data)).size == (8, 8)


def test_damaged_exif_and_profile_do_not_cost_the_picture(tmp_path):
    path = tmp_path / "x.jpg"
    saved(path, noise(8, 8, 3), exif=b"Exif\0\0II*\0\xff\xff\xff\xff", icc_profile=b"no" * 100)
    image = read_image(path)
    assert image.pixels.shape == (8, 8, 3)
    write_image(tmp_path / "y.jpg", image)
