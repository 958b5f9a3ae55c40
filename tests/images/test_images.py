import io
import os
import struct
import zlib

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
    Metadata,
    encode_image,
    read_header,
    read_image,
    read_rgb,
    read_size,
    write_image,
)

# Pillow warns of the damage these tests make.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")
SRGB = PIL.ImageCms.ImageCmsProfile(PIL.ImageCms.createProfile("sRGB")).tobytes()
EXACT = ["png", "tif", "webp"]  # hold RGB and alpha without loss (WebP at quality 100)


def noise(*shape, dtype=np.uint8, seed=0):
    top = np.iinfo(dtype).max
    return np.random.default_rng(seed).integers(0, top, shape, dtype=dtype, endpoint=True)


def saved(path, array, mode=None, **options):
    image = PIL.Image.fromarray(array)
    (image.convert(mode) if mode else image).save(path, **options)
    return path


def png_16(array, chunks=()):
    """A 16-bit PNG made apart from the package: no filter, one IDAT."""
    height, width, channels = array.shape
    rows = array.astype(">u2").view(np.uint8).reshape(height, -1)
    body = zlib.compress(np.pad(rows, ((0, 0), (1, 0))).tobytes())
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    header = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", body), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in parts
    )


def bomb(width=60000, height=60000):
    """A PNG of a few bytes that declares 3.6 billion pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in parts
    )


# Reading


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


@pytest.mark.parametrize("orientation", range(1, 9))
def test_rgb_alone_and_its_size_are_upright(tmp_path, orientation):
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path / "x.png", noise(6, 9, 3), exif=exif)
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


# Refusing


@pytest.mark.parametrize("extension", ["png", "jpg", "webp", "bmp", "tif", "gif"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 0.6, 0.9])
def test_cut_off_files_are_refused(tmp_path, extension, share):
    path = saved(tmp_path / f"x.{extension}", noise(64, 64, 3))
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(ImageError) as raised:
        read_image(path)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("kind", ["png", "tif"])
def test_cut_off_16_bit_files_are_refused(tmp_path, kind):
    path = tmp_path / f"x.{kind}"
    write_image(path, Image(noise(64, 64, 3, dtype=np.uint16)))
    data = path.read_bytes()
    for share in (0.3, 0.9):
        path.write_bytes(data[: int(share * len(data))])
        with pytest.raises(ImageError):
            read_image(path)


def test_random_damage_never_escapes_as_another_error(tmp_path):
    random = np.random.default_rng(1)
    for extension in ("png", "jpg", "webp", "bmp", "tif", "gif"):
        path = saved(tmp_path / f"x.{extension}", noise(16, 16, 3))
        original = np.frombuffer(path.read_bytes(), np.uint8)
        for _ in range(60):
            data = original.copy()
            where = random.integers(0, min(len(data), 400), 4)
            data[where] = random.integers(0, 256, 4)
            path.write_bytes(data.tobytes())
            try:
                read_image(path, max_pixels=10_000)
            except ImageError as error:
                assert "\n" not in str(error)  # noqa: PT017


def test_refusals_name_file_and_reason(tmp_path):
    def reason(name, data=None, **options):
        path = tmp_path / name
        if data is not None:
            path.write_bytes(data)
        with pytest.raises(ImageError) as raised:
            read_image(path, **options)
        assert str(raised.value).startswith(f"{path}: ")
        return str(raised.value).removeprefix(f"{path}: ")

    assert reason("empty.png", b"") == "empty (0 bytes)"
    assert reason("text.png", b"Dear reader, this is a text.").startswith("not an image")
    assert reason("missing.png") == "no such file"
    (tmp_path / "link.png").symlink_to(tmp_path / "nowhere")
    assert reason("link.png") == "no such file (a broken link)"
    (tmp_path / "a.png").mkdir()
    assert reason("a.png") == "a folder, not an image"
    os.mkfifo(tmp_path / "pipe.png")
    assert reason("pipe.png") == "not a regular file"
    assert "--max-pixels" in reason("bomb.png", bomb())
    small = png_16(noise(10, 11, 3, dtype=np.uint16))
    assert "--max-pixels" in reason("small.png", small, max_pixels=109)
    assert read_image(tmp_path / "small.png", max_pixels=110).pixels.shape == (10, 11, 3)
    frames = [PIL.Image.fromarray(noise(8, 8, 3, seed=s)) for s in range(3)]
    for name in ("x.gif", "y.webp", "z.tif", "w.png"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
        assert reason(name).startswith("holds 3 frames")
    tifffile.imwrite(tmp_path / "float.tif", noise(8, 8).astype(np.float32))
    assert "float" in reason("float.tif")
    tifffile.imwrite(tmp_path / "signed.tif", noise(8, 8).astype(np.int16))
    assert "bit" in reason("signed.tif")


def test_limit_is_pillows_own_again_afterwards(tmp_path):
    before = PIL.Image.MAX_IMAGE_PIXELS
    path = saved(tmp_path / "x.png", noise(4, 4, 3))
    read_image(path)
    with pytest.raises(ImageError):
        read_image(path, max_pixels=3)
    assert before == PIL.Image.MAX_IMAGE_PIXELS


def test_header_tells_size_without_decoding(tmp_path):
    path = saved(tmp_path / "x.png", noise(64, 32, 3))
    path.write_bytes(path.read_bytes()[:300])
    assert read_header(path) == ("PNG", 32, 64)


def test_tiff_preview_pages_and_multi_picture_jpegs_are_single_pictures(tmp_path):
    picture = noise(16, 16, 3)
    with tifffile.TiffWriter(tmp_path / "x.tif") as writer:
        writer.write(picture, photometric="rgb")
        writer.write(picture[::4, ::4], photometric="rgb", subfiletype=1)
    np.testing.assert_array_equal(read_image(tmp_path / "x.tif").pixels, picture)
    PIL.Image.fromarray(picture).save(
        tmp_path / "x.jpg", "MPO", save_all=True, append_images=[PIL.Image.fromarray(picture)]
    )
    assert PIL.Image.open(tmp_path / "x.jpg").n_frames == 2
    image = read_image(tmp_path / "x.jpg")
    assert image.pixels.shape == picture.shape
    assert len(image.notes) == 1


# Writing


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
