"""Training losses: Eq. 10 and 11 of the paper, and the choices of later deblurring papers.

All images are in the network's range [-0.5, 0.5], float32 or bfloat16; arithmetic is float32.

Scale. The paper writes 1/2 ||S - G||^2, a sum over pixels; the authors' code takes PyTorch's
`nn.MSELoss`, the mean over batch, pixels and channels. So does this module. One is B*H*W*3/2
times the other, and Adam's step does not depend on a constant factor of the loss.

jax is imported when a loss is computed: checks and help read the names of `LOSSES` without it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from dmphn_jax.errors import UserError, nearest

if TYPE_CHECKING:
    from jax import Array

CHARBONNIER_EPSILON = 1e-3
FFT_WEIGHT = 0.1


def mse(image: Array, sharp: Array) -> Array:
    """Returns the mean squared difference (Eq. 10, up to a constant), a float32 scalar."""
    import jax.numpy as jnp

    difference = _difference(image, sharp)
    return jnp.mean(difference * difference)


def charbonnier(image: Array, sharp: Array) -> Array:
    """Returns the mean of sqrt(d^2 + 1e-6): L1 that is smooth at zero."""
    import jax.numpy as jnp

    difference = _difference(image, sharp)
    return jnp.mean(jnp.sqrt(difference * difference + CHARBONNIER_EPSILON**2))


def l1(image: Array, sharp: Array) -> Array:
    """Returns the mean absolute difference."""
    import jax.numpy as jnp

    return jnp.mean(jnp.abs(_difference(image, sharp)))


def fft_l1(image: Array, sharp: Array) -> Array:
    """Returns the mean absolute difference of the real and imaginary parts of the 2-D spectra.

    The spectrum of each channel is complete and not normalised, as in MIMO-UNet (Cho et al.,
    2021). Only the half that a real image determines is computed; the other half is its mirror.
    """
    import jax.numpy as jnp
    import numpy as np

    # The transform is linear: one transform of the difference serves for both images.
    spectrum = jnp.fft.rfft2(_difference(image, sharp), axes=(1, 2))
    W = image.shape[2]
    # Columns 0 and, for even W, W/2 are their own mirror; every other one stands for two.
    count = np.full(spectrum.shape[2], 2.0, np.float32)
    count[0] = 1
    if W % 2 == 0:
        count[-1] = 1
    parts = jnp.abs(spectrum.real) + jnp.abs(spectrum.imag)
    return jnp.mean(jnp.sum(parts * count[:, None], axis=2)) / (2 * W)


def l1_fft(image: Array, sharp: Array) -> Array:
    """Returns L1 + 0.1 times the L1 of the spectra: the loss of MIMO-UNet and its followers."""
    return l1(image, sharp) + FFT_WEIGHT * fft_l1(image, sharp)


LOSSES: dict[str, Callable[[Array, Array], Array]] = {
    "mse": mse,
    "charbonnier": charbonnier,
    "l1": l1,
    "l1_fft": l1_fft,
}


def training_loss(output: Any, sharp: Array, *, loss: str = "mse", levels: bool = False) -> Array:
    """Returns the loss of a model's output: the sum over its supervised images (Eq. 11).

    Args:
        output: `models.Output`; `.stages` holds an image (B, H, W, 3) per stage, `.levels` a
            tuple of images per stage, level 1 first.
        sharp: (B, H, W, 3) in [-0.5, 0.5].
        loss: a name of `LOSSES`.
        levels: supervise every level's image, not only level 1's (the paper tried it and saw no
            visible gain). A multi-scale model, one with images smaller than `sharp`, is always
            supervised at every scale, each against the sharp image averaged down to its size.

    Raises:
        UserError: no such loss.
        ValueError: an image whose size does not divide that of `sharp`.
    """
    if loss not in LOSSES:
        raise UserError(
            f"loss {loss!r} is not known{nearest(loss, LOSSES)}: one of {', '.join(LOSSES)}"
        )
    scales = any(image.shape != sharp.shape for stage in output.levels for image in stage)
    if levels or scales:
        images = [image for stage in output.levels for image in stage]
    else:
        images = list(output.stages)
    return sum(LOSSES[loss](image, average_to(sharp, image.shape[1:3])) for image in images)


def average_to(images: Array, size: tuple[int, int]) -> Array:
    """Returns (B, H, W, C) averaged over blocks to (B, *size, C), float32.

    Raises ValueError if `size` does not divide the images' size by one whole number.
    """
    import jax.numpy as jnp

    B, H, W, C = images.shape
    h, w = size
    images = images.astype(jnp.float32)
    if (h, w) == (H, W):
        return images
    factor = H // h
    if (h * factor, w * factor) != (H, W):
        raise ValueError(f"{H} x {W} images do not average to {h} x {w}")
    return images.reshape(B, h, factor, w, factor, C).mean(axis=(2, 4))


def _difference(image: Array, sharp: Array) -> Array:
    import jax.numpy as jnp

    return image.astype(jnp.float32) - sharp.astype(jnp.float32)
