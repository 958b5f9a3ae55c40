"""What is refused, by one line that names the file and the reason."""

import os

import numpy as np
import PIL.Image
import PIL.ImageCms
import PIL.ImageOps
import pytest
import tifffile
from PIL.TiffImagePlugin import TiffImageFile

from dmphn_jax.errors import UserError
from dmphn_jax.images import (
    Image,
    ImageError,
    read_header,
    read_image,
    write_image,
)
from tests.support.pictures import bomb, noise, png_16, saved

# Pillow warns of the damage these tests make.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")


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
    for kind in ("png", "jpg", "webp", "bmp", "tif", "gif", "deep.png", "deep.tif"):
        path = tmp_path / f"x.{kind}"
        if kind.startswith("deep"):
            write_image(path, Image(noise(16, 16, 3, dtype=np.uint16)))
        else:
            saved(path, noise(16, 16, 3))
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


def test_a_tiff_of_very_many_frames_is_refused_without_counting_them(tmp_path, monkeypatch):
    frames = [PIL.Image.fromarray(noise(8, 8, 3))] * 40
    frames[0].save(tmp_path / "x.tif", save_all=True, append_images=frames[1:])
    monkeypatch.delattr(TiffImageFile, "n_frames")  # its time grows with the square of the count
    with pytest.raises(ImageError, match="holds more than 32 frames"):
        read_header(tmp_path / "x.tif")


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


def test_image_error_is_a_user_error():
    assert issubclass(ImageError, UserError)
