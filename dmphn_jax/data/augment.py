"""Augmentation on device, inside the training step: the same transform for both sides of a pair.

Recipes:

* `none`: the paper's single models.
* `stack`: the paper's stacks. Each crop is turned by 90, 180 or 270 degrees and its saturation
  scaled by U[0.8, 1.2]. The authors turn the whole 1280x720 frame with PIL, which keeps the
  frame's size and fills what a landscape frame leaves bare with black; their crops then contain
  black corners. Here the square crop itself is turned, so no black pixel enters training.
* `modern`: left-right flips, all four quarter turns (hence all eight symmetries of the square)
  and saturation U[0.8, 1.2].
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Float32, Int, Key, Shaped

from dmphn_jax.data.options import RECIPES, check_choice
from dmphn_jax.errors import UserError

LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, what PIL's conversion to grey uses


def quarter_turns(
    images: Shaped[Array, "B S S C"], turns: Int[Array, " B"]
) -> Shaped[Array, "B S S C"]:
    """Turns each square image counter-clockwise by its number of quarter turns.

    Args:
      images: (B, S, S, C), any dtype.
      turns: (B,) integers, taken modulo 4.

    Returns:
      (B, S, S, C); example i is `numpy.rot90(images[i], turns[i])`.
    """
    turns = (turns % 4)[:, None, None, None]
    # One transpose and two flips make every quarter turn: three selections instead of four
    # turned copies.
    images = jnp.where(turns % 2 == 1, images.swapaxes(1, 2), images)
    images = jnp.where((turns == 1) | (turns == 2), images[:, ::-1], images)
    return jnp.where(turns >= 2, images[:, :, ::-1], images)


def flip_left_right(
    images: Shaped[Array, "B H W C"], flip: Bool[Array, " B"]
) -> Shaped[Array, "B H W C"]:
    """Mirrors the images (B, H, W, C) whose entry of `flip`, (B,) bool, is true."""
    return jnp.where(flip[:, None, None, None], images[:, :, ::-1], images)


def saturation(
    images: Float[Array, "B H W 3"], factor: Float[Array, " B"]
) -> Float[Array, "B H W 3"]:
    """Scales each image's saturation as PIL's `ImageEnhance.Color`: a blend with its grey.

    Unlike PIL nothing is rounded to 8 bits: the result is within 1.5/255 of PIL's.

    Args:
      images: (B, H, W, 3) float RGB in [0, 1].
      factor: (B,) float; 0 is grey, 1 the identity.

    Returns:
      (B, H, W, 3) in [0, 1].
    """
    factor = factor.astype(images.dtype)[:, None, None, None]
    luma = jnp.asarray(LUMA, images.dtype).reshape(1, 1, 1, 3)
    grey = jnp.sum(images * luma, axis=-1, keepdims=True)
    # Written as a difference so that factor 1 gives the image's own bits.
    return jnp.clip(images + (factor - 1) * (images - grey), 0, 1)


def augment(
    key: Key[Array, ""],
    blurry: Shaped[Array, "B H W 3"],
    sharp: Shaped[Array, "B H W 3"],
    recipe: str,
) -> tuple[Float32[Array, "B H W 3"], Float32[Array, "B H W 3"]]:
    """Augments a batch of pairs; every pair draws its own transform, both sides get the same.

    Args:
      key: a JAX random key; the same key gives the same transforms.
      blurry: (B, S, S, 3) uint8 RGB.
      sharp: (B, S, S, 3) uint8 RGB.
      recipe: a name of `options.RECIPES`; static under jit.

    Returns:
      (blurry, sharp), float32 (B, S, S, 3) in [0, 1].

    Raises:
      UserError: the recipe is unknown, or it turns images that are not square.
    """
    check_choice("augmentation", recipe, RECIPES)
    batch, height, width, _ = blurry.shape
    draws = RECIPES[recipe]
    if draws is None:
        return _unit(blurry), _unit(sharp)
    if height != width:
        raise UserError(
            f"augmentation {recipe!r} turns crops and needs square ones, not {height}x{width}; "
            "use 'none' or a square crop"
        )
    turn_key, flip_key, colour_key = jax.random.split(key, 3)
    fewest, most = draws.turns
    turns = jax.random.randint(turn_key, (batch,), fewest, most + 1)
    flip = jax.random.bernoulli(flip_key, 0.5, (batch,))
    low, high = draws.saturation
    factor = jax.random.uniform(colour_key, (batch,), minval=low, maxval=high)

    def apply(images: jax.Array) -> jax.Array:
        images = quarter_turns(images, turns)  # on uint8: a quarter of float32's traffic
        if draws.flip:
            images = flip_left_right(images, flip)
        return saturation(_unit(images), factor)

    return apply(blurry), apply(sharp)


def _unit(images: Shaped[Array, "*shape"]) -> Float32[Array, "*shape"]:
    return images.astype(jnp.float32) / 255
