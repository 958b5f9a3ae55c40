"""PSNR, and SSIM in the two conventions that deblurring papers mix without saying so.

Every function takes two batches (B, H, W, 3) of RGB images on the scale 0..255, uint8 or float,
and returns float32 (B,). Scores are taken between 8-bit images: float images are clipped to
0..255 and rounded to nearest first, because a file is what a user keeps. All are pure and can be
jitted, sharded over B and used inside a training step; `scores` is the same for NumPy arrays.

The two SSIMs weigh windows with the same Gaussian (11 taps per axis, sigma 1.5, dynamic range
255, K1 = 0.01, K2 = 0.03, population covariance) and differ in what they take for an image:

* `ssim_matlab`: MATLAB's `ssim` of an M x N x 3 array. MATLAB takes the array for a volume, so
  the window is 11 x 11 x 11 and mixes the colour channels; borders, those between the channels
  too, are replicated, and the mean is over the whole map. The paper's figures are these.
* `ssim_skimage`: `skimage.metrics.structural_similarity(..., gaussian_weights=True, sigma=1.5,
  use_sample_covariance=False, data_range=255, channel_axis=-1)`: each channel for itself, the
  mean over the map without its border of 5 pixels. It is lower than MATLAB's: on GoPro by about
  0.03 for deblurred images and 0.08 for blurry ones.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Float32, Real

# Goes up whenever equal images would get other scores: a metric, or the rounding before it, was
# mended. Scores that an older version kept on disk are then computed anew.
METRICS_VERSION = 1

SIGMA = 1.5
RADIUS = 5  # MATLAB: ceil(3 sigma); scikit-image: round(3.5 sigma)
C1 = (0.01 * 255) ** 2
C2 = (0.03 * 255) ** 2
_CENTRE = 128.0

Images = Real[Array, "B H W 3"]  # uint8, or float on 0..255
Moments = Float32[Array, "5 B H W 3"]


def psnr(images: Images, sharp: Images) -> Float32[Array, " B"]:
    """Returns the PSNR in dB of each image over all of its pixels and channels; inf where equal."""
    difference = _eight_bit(images).astype(jnp.int32) - _eight_bit(sharp).astype(jnp.int32)
    # Whole numbers along a row are exact (up to 33,000 pixels); float32 takes over from there.
    rows = jnp.sum(difference * difference, axis=2).astype(jnp.float32) / images.shape[2]
    return 10 * jnp.log10(255.0**2 / jnp.mean(rows, axis=(1, 2)))


def ssim_matlab(images: Images, sharp: Images) -> Float32[Array, " B"]:
    """Returns MATLAB's SSIM of each image as a 3-D array: the convention of the paper's tables."""
    return _matlab(_moments(images, sharp))


def ssim_skimage(images: Images, sharp: Images) -> Float32[Array, " B"]:
    """Returns scikit-image's Gaussian SSIM of each image, per channel, averaged over channels.

    Raises ValueError for images smaller than the window, 11 x 11.
    """
    return _skimage(_moments(images, sharp))


def all_metrics(images: Images, sharp: Images) -> dict[str, Float32[Array, " B"]]:
    """Returns every metric of two batches (B, H, W, 3) on 0..255: name -> float32 (B,).

    The names are `scores.METRIC_NAMES`.
    """
    moments = _moments(images, sharp)  # most of the work, the same for both conventions
    return {
        "psnr": psnr(images, sharp),
        "ssim_matlab": _matlab(moments),
        "ssim_skimage": _skimage(moments),
    }


compiled_metrics = jax.jit(all_metrics)


def scores(image: np.ndarray, sharp: np.ndarray) -> dict[str, float]:
    """Returns every metric of one pair of NumPy images (H, W, 3) on 0..255 as plain floats.

    Raises ValueError where the shapes differ or are smaller than 11 x 11.
    """
    if image.shape != sharp.shape or image.ndim != 3:
        raise ValueError(f"images of one shape (H, W, 3) needed, not {image.shape}, {sharp.shape}")
    return {
        name: float(value[0]) for name, value in compiled_metrics(image[None], sharp[None]).items()
    }


def _eight_bit(images: Real[Array, "*shape"]) -> Real[Array, "*shape"]:
    if images.dtype == jnp.uint8:
        return images
    return jnp.round(jnp.clip(images.astype(jnp.float32), 0, 255))


def _taps() -> np.ndarray:
    taps = np.exp(-(np.arange(-RADIUS, RADIUS + 1) ** 2) / (2 * SIGMA**2))
    return taps / taps.sum()


def _filter(maps: Array, axis: int) -> Array:
    """Filters along one axis, without padding, as a sum of 11 shifted copies.

    One fused loop, far faster on a CPU than a convolution of one channel. The barrier keeps XLA
    from fusing two passes into one of 121 taps.
    """
    length = maps.shape[axis] - 2 * RADIUS
    total = sum(
        float(tap) * lax.slice_in_dim(maps, i, i + length, axis=axis)
        for i, tap in enumerate(_taps())
    )
    return lax.optimization_barrier(total)


def _replicated_channel_filter(channels: int) -> np.ndarray:
    """Returns the Gaussian over `channels` replicated at both ends, as a square matrix."""
    mix = np.zeros((channels, channels))
    for i in range(channels):
        for offset, tap in zip(range(-RADIUS, RADIUS + 1), _taps(), strict=True):
            mix[i, min(max(i + offset, 0), channels - 1)] += tap
    return mix


def _moments(images: Images, sharp: Images) -> Moments:
    """Returns the windowed means of x, y, x^2, y^2 and xy in each channel, (5, B, H, W, 3).

    Borders are replicated. From x and y a constant has been subtracted, which changes no
    variance: float32 squares of -128..127 keep two more bits than those of 0..255.
    """
    x = _eight_bit(images).astype(jnp.float32) - _CENTRE
    y = _eight_bit(sharp).astype(jnp.float32) - _CENTRE
    maps = jnp.stack([x, y, x * x, y * y, x * y])
    pad = ((0, 0), (0, 0), (RADIUS, RADIUS), (RADIUS, RADIUS), (0, 0))
    return _filter(_filter(jnp.pad(maps, pad, mode="edge"), 2), 3)


def _matlab(moments: Moments) -> Float32[Array, " B"]:
    mix = _replicated_channel_filter(moments.shape[-1])
    channels = range(len(mix))
    # A (3, 3) product written out: as a matrix product a TPU would round it to bfloat16.
    mixed = [sum(mix[i, j] * moments[..., j] for j in channels) for i in channels]
    return _mean_ssim(jnp.stack(mixed, axis=-1))


def _skimage(moments: Moments) -> Float32[Array, " B"]:
    H, W = moments.shape[2:4]
    if min(H, W) < 2 * RADIUS + 1:
        raise ValueError(f"SSIM needs images of at least 11 x 11 pixels, not {H} x {W}")
    # Inside the border nothing of the padding was seen.
    return _mean_ssim(moments[:, :, RADIUS:-RADIUS, RADIUS:-RADIUS])


def _mean_ssim(moments: Moments) -> Float32[Array, " B"]:
    mean_x, mean_y, mean_xx, mean_yy, mean_xy = moments
    var_x, var_y = mean_xx - mean_x * mean_x, mean_yy - mean_y * mean_y
    covariance = mean_xy - mean_x * mean_y
    mean_x, mean_y = mean_x + _CENTRE, mean_y + _CENTRE
    ssim_map = ((2 * mean_x * mean_y + C1) * (2 * covariance + C2)) / (
        (mean_x * mean_x + mean_y * mean_y + C1) * (var_x + var_y + C2)
    )
    # Row by row first: one long float32 sum would lose the digits that tables print.
    return jnp.mean(jnp.mean(ssim_map, axis=2), axis=(1, 2))
