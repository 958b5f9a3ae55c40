"""What `Deblurrer` takes: arrays, batches, paths, and frames as they come."""

import itertools

import numpy as np
import PIL.Image
import pytest

import dmphn_jax
from dmphn_jax import checkpoints
from dmphn_jax.checkpoints import weights
from dmphn_jax.errors import UserError
from dmphn_jax.inference.frames import each
from dmphn_jax.models import ModelConfig, init_params
from tests.support.pictures import noise, saved

CONFIG = ModelConfig("dmphn", "1-2", width=2)


@pytest.fixture(scope="module")
def deblurrer():
    return dmphn_jax.Deblurrer(params=init_params(CONFIG), config=CONFIG)


def test_an_array_and_a_batch_keep_their_shape_and_dtype(deblurrer):
    images = noise(2, 12, 20, 3)
    batch = deblurrer(images)
    assert (batch.shape, batch.dtype) == (images.shape, images.dtype)
    np.testing.assert_array_equal(batch, deblurrer.batch(images))
    one = deblurrer(images[1])
    assert one.shape == (12, 20, 3)
    assert np.abs(one.astype(int) - batch[1]).max() <= 1


def test_a_path_is_read_upright(deblurrer, tmp_path):
    pixels = noise(12, 20, 3)
    upright = deblurrer(pixels)
    np.testing.assert_array_equal(deblurrer(saved(tmp_path / "x.png", pixels)), upright)
    exif = PIL.Image.Exif()
    exif[0x0112] = 3  # half a turn
    turned = PIL.Image.fromarray(pixels[::-1, ::-1])
    turned.save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(deblurrer(str(tmp_path / "turned.png")), upright)
    with pytest.raises(UserError, match=r"nothing\.png: "):
        deblurrer(tmp_path / "nothing.png")


def test_frames_of_every_form_come_in_order(deblurrer, tmp_path):
    frames = [
        noise(12, 20, 3),
        noise(3, 8, 8, 3, seed=1),
        saved(tmp_path / "x.png", noise(16, 4, 3, seed=2)),
        noise(12, 20, 3, seed=3, dtype=np.uint16),
    ]
    results = list(deblurrer(iter(frames)))
    assert len(results) == len(frames)
    for result, frame in zip(results, frames):
        np.testing.assert_array_equal(result, deblurrer(frame))


class Device:
    """Notes what it is given and what is taken back."""

    def __init__(self):
        self.log = []

    def submit(self, images):
        number = int(images[0, 0, 0, 0])
        self.log.append(f"submit {number}")
        return Pending(self.log, images, number)


class Pending:
    def __init__(self, log, images, number):
        self.log, self.images, self.number = log, images, number

    def result(self):
        self.log.append(f"take {self.number}")
        return self.images


def numbered(number):
    return np.full((1, 1, 3), number, np.uint8)


def test_frames_are_read_as_they_are_needed():
    device = Device()
    results = each(map(numbered, itertools.count()), device.submit, most=2)
    assert device.log == []
    assert next(results)[0, 0, 0] == 0
    # The next frame is on the device before the first one's result is waited for.
    assert device.log == ["submit 0", "submit 1", "take 0"]
    assert next(results)[0, 0, 0] == 1
    assert device.log[3:] == ["submit 2", "take 1"]


def test_a_frame_that_fails_does_so_in_its_place(deblurrer):
    frames = iter([noise(8, 8, 3), noise(8, 8, 3), noise(8, 8, 4), noise(8, 8, 3)])
    results = deblurrer(frames)
    assert next(results).shape == next(results).shape == (8, 8, 3)
    with pytest.raises(ValueError, match="RGB needed"):
        next(results)
    assert list(results) == []


def test_a_name_is_a_released_models(tmp_path, monkeypatch):
    folder = tmp_path / "kept"
    checkpoints.save(folder, init_params(CONFIG), CONFIG)
    monkeypatch.setattr(weights, "kept", lambda name: folder if name == "stack4" else None)
    monkeypatch.chdir(tmp_path)
    assert dmphn_jax.Deblurrer("stack4").config == CONFIG
