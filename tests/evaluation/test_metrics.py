import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
import skimage.metrics
from jaxtyping import TypeCheckError
from PIL import Image

from dmphn_jax.data.psnr import psnr
from dmphn_jax.evaluation import metrics


def matlab_filter(volume):
    """MATLAB: imfilter(volume, gaussian(11 x 11 x 11, sigma 1.5), 'conv', 'replicate')."""
    for axis in range(3):
        taps = np.exp(-(np.arange(-5, 6) ** 2) / 4.5)
        volume = scipy.ndimage.correlate1d(volume, taps / taps.sum(), axis, mode="nearest")
    return volume


def matlab_ssim(image, sharp, window=matlab_filter):
    """MATLAB's ssim.m on M x N x 3 uint8 arrays, line by line, in float64."""
    x, y = image.astype(np.float64), sharp.astype(np.float64)
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    mux2, muy2 = window(x), window(y)
    muxy = mux2 * muy2
    mux2, muy2 = mux2**2, muy2**2
    sigmax2 = window(x**2) - mux2
    sigmay2 = window(y**2) - muy2
    sigmaxy = window(x * y) - muxy
    num = (2 * muxy + c1) * (2 * sigmaxy + c2)
    den = (mux2 + muy2 + c1) * (sigmax2 + sigmay2 + c2)
    return (num / den).mean()


def skimage_ssim(image, sharp):
    return skimage.metrics.structural_similarity(
        image,
        sharp,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=255,
        channel_axis=-1,
    )


def expected(image, sharp):
    return {
        "psnr": skimage.metrics.peak_signal_noise_ratio(sharp, image, data_range=255),
        "ssim_matlab": matlab_ssim(image, sharp),
        "ssim_skimage": skimage_ssim(image, sharp),
    }


def random_pair(kind, size=(45, 61), seed=0):
    rng = np.random.default_rng(seed)
    sharp = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    if kind == "noise":
        return rng.integers(0, 256, (*size, 3), dtype=np.uint8), sharp
    if kind == "blurred":
        return scipy.ndimage.gaussian_filter(sharp, (1, 1, 0)), sharp
    if kind == "bright":  # flat and bright: where a float32 variance cancels worst
        sharp = (250 + sharp // 64).astype(np.uint8)
        return np.minimum(sharp + rng.integers(0, 2, sharp.shape), 255).astype(np.uint8), sharp
    if kind == "colour":  # channels apart from each other: where the two SSIMs part
        sharp = np.clip(sharp // 8 + np.array([10, 120, 220]), 0, 255).astype(np.uint8)
        return np.clip(sharp[..., ::-1] * 0.2 + sharp * 0.8, 0, 255).astype(np.uint8), sharp
    raise ValueError(kind)


@pytest.mark.parametrize("kind", ["noise", "blurred", "bright", "colour"])
def test_agrees_with_scikit_image_and_matlab(kind):
    image, sharp = random_pair(kind)
    assert metrics.scores(image, sharp) == pytest.approx(expected(image, sharp), abs=1e-4)


def test_matlab_window_is_the_full_volume():
    """The separable reference above is MATLAB's 1331-tap kernel, built as getGaussian... does."""
    x, y, z = np.mgrid[-5:6, -5:6, -5:6]
    kernel = np.exp(-(x * x + y * y + z * z) / (2 * 1.5 * 1.5))
    kernel[kernel < np.finfo(float).eps * kernel.max()] = 0
    kernel /= kernel.sum()
    image, sharp = random_pair("blurred", size=(20, 17))

    def window(volume):
        return scipy.ndimage.convolve(volume, kernel, mode="nearest")

    assert matlab_ssim(image, sharp, window) == pytest.approx(matlab_ssim(image, sharp), abs=1e-12)
    got = metrics.scores(image, sharp)["ssim_matlab"]
    assert got == pytest.approx(matlab_ssim(image, sharp, window), abs=1e-5)


def test_the_two_conventions_differ():
    image, sharp = random_pair("colour")
    both = metrics.scores(image, sharp)
    assert abs(both["ssim_matlab"] - both["ssim_skimage"]) > 0.01


def test_batches_are_scored_image_by_image():
    pairs = [random_pair(kind) for kind in ("noise", "blurred", "bright")]
    images, sharp = (np.stack(side) for side in zip(*pairs, strict=True))
    batch = jax.jit(metrics.all_metrics)(images, sharp)
    for i, (image, target) in enumerate(pairs):
        one = metrics.scores(image, target)
        assert {k: float(v[i]) for k, v in batch.items()} == pytest.approx(one, abs=1e-5)


def test_equal_images():
    image, _ = random_pair("noise")
    assert metrics.scores(image, image) == pytest.approx(
        {"psnr": np.inf, "ssim_matlab": 1.0, "ssim_skimage": 1.0}
    )


def test_float_images_are_clipped_and_rounded_first():
    image, sharp = random_pair("blurred")
    wide = image.astype(np.float32) + np.random.default_rng(1).uniform(-0.49, 0.49, image.shape)
    wide = np.where(image == 0, -30.0, np.where(image == 255, 300.0, wide)).astype(np.float32)
    assert metrics.scores(wide, sharp) == metrics.scores(image, sharp)


def test_host_and_device_take_the_same_psnr():
    image, sharp = random_pair("blurred")
    assert metrics.scores(image, sharp)["psnr"] == pytest.approx(psnr(image, sharp), abs=1e-5)


def test_a_change_of_the_metrics_is_a_new_version():
    """Where this fails, raise METRICS_VERSION: scores kept on disk must not be taken for new."""
    known = {1: {"psnr": 17.42145, "ssim_matlab": 0.87554, "ssim_skimage": 0.86344}}
    image, sharp = random_pair("colour")
    assert metrics.scores(image, sharp) == pytest.approx(known[metrics.METRICS_VERSION], abs=1e-4)


def test_psnr_is_exact_over_a_large_image():
    """A long float32 sum would be off: every difference here is 1 but for a few."""
    sharp = np.zeros((720, 1280, 3), np.uint8)
    image = np.ones_like(sharp)
    image[::97, ::89] = 255
    want = 10 * np.log10(255**2 / np.mean(image.astype(np.float64) ** 2))
    got = metrics.psnr(jnp.asarray(image[None]), jnp.asarray(sharp[None]))
    assert float(got[0]) == pytest.approx(want, abs=2e-5)


def test_small_images_and_unlike_shapes_are_refused():
    small = np.zeros((10, 40, 3), np.uint8)
    with pytest.raises(ValueError, match="11 x 11 pixels, not 10 x 40"):
        metrics.scores(small, small)
    with pytest.raises(ValueError, match="one shape"):
        metrics.scores(small, np.zeros((40, 10, 3), np.uint8))


# reference/README.md: frame 1 of the authors' test sequence.
REAL = {
    "DMPHN_1_2_4": (30.75, 0.8972),
    "DMPHN_1_2_4_8": (30.82, 0.8984),
    "SDNet2": (31.37, 0.9033),
    "SDNet4": (31.61, 0.9082),
}


def test_the_authors_own_outputs_score_as_known(reference):
    pair = reference / "pairs/GOPRO_Large/test/GOPR0384_11_00"
    sharp = np.asarray(Image.open(pair / "sharp/000001.png"))
    blurry = np.asarray(Image.open(pair / "blur/000001.png"))
    assert metrics.scores(blurry, sharp)["psnr"] == pytest.approx(24.05, abs=0.005)
    for model, (known, ssim) in REAL.items():
        output = np.asarray(Image.open(reference / "expected" / model / "000001.png"))
        got = metrics.scores(output, sharp)
        assert got["psnr"] == pytest.approx(known, abs=0.00501)
        assert got["ssim_skimage"] == pytest.approx(ssim, abs=0.0000501)


def test_real_pairs_agree_with_scikit_image_and_matlab(reference):
    pair = reference / "pairs/GOPRO_Large/test/GOPR0384_11_00"
    sharp = np.asarray(Image.open(pair / "sharp/000001.png"))
    blurry = np.asarray(Image.open(pair / "blur/000001.png"))
    assert metrics.scores(blurry, sharp) == pytest.approx(expected(blurry, sharp), abs=1e-4)


def test_shapes_in_signatures_are_checked_while_tests_run():
    with pytest.raises(TypeCheckError, match="parameter 'sharp'"):
        metrics.psnr(jnp.zeros((2, 16, 16, 3)), jnp.zeros((1, 16, 16, 3)))
