"""The authors' weights give the authors' pictures (needs the reference data)."""

import numpy as np
import pytest
from PIL import Image

from dmphn_jax.checkpoints.torch.reading import params_from_torch
from dmphn_jax.cli import main
from dmphn_jax.data.psnr import psnr
from dmphn_jax.inference.deblurrer import Deblurrer
from dmphn_jax.models import PRECISIONS
from tests.support import independent

# Model folder -> (allowed mean, allowed largest difference in grey levels). The authors' PNGs
# were truncated, not rounded, so a correct pixel may be one level higher. Their files of
# DMPHN_1_2_4_8 differ from what their own released code and weights give by up to 6 levels.
BOUNDS = {
    "DMPHN_1_2_4": (1.0, 1),
    "DMPHN_1_2_4_8": (0.55, 8),
    "SDNet2": (1.0, 1),
    "SDNet4": (1.0, 1),
}


@pytest.mark.parametrize("model", BOUNDS)
def test_full_frames_are_the_authors(model, reference, tmp_path, capsys):
    frame = reference / "blurry" / "000005.png"
    assert main(["convert", str(reference / "checkpoints" / model), str(tmp_path / "c")]) == 0
    out = tmp_path / "out.png"
    assert (
        main(["deblur", str(frame), "--checkpoint", str(tmp_path / "c"), "--output", str(out)]) == 0
    )
    capsys.readouterr()
    ours = np.asarray(Image.open(out)).astype(int)
    theirs = np.asarray(Image.open(reference / "expected" / model / frame.name)).astype(int)
    assert ours.shape == theirs.shape == (720, 1280, 3)
    difference = np.abs(ours - theirs)
    mean, largest = BOUNDS[model]
    assert difference.max() <= largest
    assert difference.mean() < mean
    # The comparison can fail: the blurry frame is far away.
    blurry = np.asarray(Image.open(frame)).astype(int)
    assert np.abs(blurry - theirs).max() > 30


@pytest.mark.parametrize("model", ["DMPHN_1_2_4_8", "SDNet2"])
def test_crops_agree_with_the_equations(model, reference):
    params, config = params_from_torch(reference / "checkpoints" / model)
    image = np.asarray(Image.open(reference / "blurry" / "000010.png"))[300:332, 640:664]
    expected = independent.stack(independent.dmphn, image / 255 - 0.5, params, config.hierarchy)
    output = Deblurrer(params=params, config=config).output(image)
    for stage, images in enumerate(expected):
        for level, image in enumerate(images):
            # Of the largest value: images of the finer levels are residuals, as large as 5.
            # Measured: 1.05e-5 at one value of the largest; XLA's convolutions add up in float32.
            atol = 2e-5 * max(1, np.abs(image).max())
            np.testing.assert_allclose(output.levels[stage][level] - 0.5, image, atol=atol, rtol=0)
        np.testing.assert_allclose(output.stages[stage] - 0.5, images[0], atol=1e-5, rtol=0)


def test_low_precision_costs_hardly_any_quality(reference):
    """A part of a real frame, 96x128, keeps its PSNR; docs/benchmarks.md has whole frames."""
    params, config = params_from_torch(reference / "checkpoints" / "SDNet2")
    folder = reference / "pairs" / "GOPRO_Large" / "test" / "GOPR0384_11_00"
    blurry, sharp = (
        np.asarray(Image.open(folder / side / "000001.png"))[300:396, 560:688]
        for side in ("blur", "sharp")
    )
    scores = {
        precision: psnr(Deblurrer(params=params, config=config, precision=precision)(blurry), sharp)
        for precision in PRECISIONS
    }
    assert abs(scores["bfloat16"] - scores["float32"]) < 0.05
    assert abs(scores["float16"] - scores["float32"]) < 0.01
    assert scores["bfloat16"] > psnr(blurry, sharp) + 1
