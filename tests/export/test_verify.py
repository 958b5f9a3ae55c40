"""`--verify`: which frames, what is compared, and when it says no."""

import jax
import numpy as np
import pytest

from dmphn_jax.errors import UserError
from dmphn_jax.export import verify, writing
from dmphn_jax.export.options import Options
from dmphn_jax.export.verify import Comparison, frames
from dmphn_jax.images import Image, write_image
from dmphn_jax.inference.deblurrer import Deblurrer
from tests.export.models import network


def picture(path, size, value=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, Image(np.full((*size, 3), value, np.uint8)))


def test_frames_are_a_folders_first_pictures(tmp_path):
    for i in range(6):
        picture(tmp_path / f"deep/{i}.png", (20 + i, 30), i)
    (tmp_path / "notes.txt").write_text("no picture")
    found = frames(str(tmp_path), Options("onnx"))
    assert [frame.shape for frame in found] == [(20 + i, 30, 3) for i in range(verify.FRAMES)]
    fixed = frames(str(tmp_path), Options("onnx", size=(24, 10)))
    assert [(frame.shape, frame[0, 0, 0]) for frame in fixed] == [
        ((24, 10, 3), 4),
        ((24, 10, 3), 5),
    ]
    assert frames(str(tmp_path / "deep" / "3.png"), Options("onnx"))[0][0, 0, 0] == 3
    for source, options, said in (
        (tmp_path / "none", Options("onnx"), "none: no such file or folder"),
        (tmp_path / "notes.txt", Options("onnx"), "no picture in it"),
        (tmp_path, Options("onnx", size=(720, 1280)), "no picture of at least 720x1280"),
    ):
        with pytest.raises(UserError, match=said):
            frames(str(source), options)


def test_without_a_folder_frames_are_scenes_of_the_files_size():
    assert len({frame.shape for frame in frames("", Options("onnx"))}) == 2
    (frame,) = frames("", Options("onnx", size=(40, 24)))
    assert frame.shape == (40, 24, 3)
    assert frame.std() > 1


@pytest.mark.parametrize("pixels", ["uint8", "float"])
def test_the_checkpoint_itself_agrees_and_another_does_not(pixels, tmp_path):
    config, params = network("dmphn_1")
    options = Options("stablehlo", pixels=pixels, size=(16, 16), batch=2)
    path = tmp_path / "m"
    writing.write(path, params, config, "a digest", options)
    blurry = frames("", options)
    same = Deblurrer(params=params, config=config)
    (found,) = verify.verify(path, options, same, blurry)
    assert found.agrees
    assert found.difference <= (1 if pixels == "uint8" else 0.1)
    other = Deblurrer(params=jax.tree.map(lambda x: x + 0.01, params), config=config)
    (found,) = verify.verify(path, options, other, blurry)
    assert not found.agrees


def test_a_line_tells_the_difference_the_bound_and_both_speeds():
    found = Comparison("JAX", 0.25, 1, 4, 3.0, 2.0, (720, 1280))
    assert str(found) == (
        "JAX: largest difference 0.25 of 255 grey levels on 4 frames, at most 1; "
        "1280x720: 3.000 s, the checkpoint 2.000 s (ratio 1.50)"
    )
    assert not Comparison("JAX", float("nan"), 1, 4, 3.0, 2.0, (720, 1280)).agrees
