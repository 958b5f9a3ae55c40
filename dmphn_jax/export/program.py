"""The function that every format holds: pixels in, pixels out, images of any size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from dmphn_jax.export.options import Options
from dmphn_jax.models import ModelConfig, build
from dmphn_jax.models.convolutions import Convolutions
from dmphn_jax.models.pixels import from_network, to_network

Program = Callable[[Any, jax.Array], jax.Array]
"""From (parameters, blurry (B, H, W, 3)) to the sharp image of the same shape and dtype."""


def program(config: ModelConfig, options: Options, convolutions: Convolutions) -> Program:
    """Returns what an artefact computes, to be traced with `blurry(options)` for its images.

    Images are padded by reflection at the bottom and the right to sizes that the patch grid
    divides, and cropped back, as `Deblurrer` does. Float images are clipped to [0, 1].
    """
    module = build(config, options.precision, convolutions=convolutions)

    def deblur(params: Any, blurry: jax.Array) -> jax.Array:
        batch, height, width, channels = blurry.shape
        as_float = options.pixels == "float"
        # First of all, since some compilers take uint8 for nothing but a conversion.
        image = blurry - 0.5 if as_float else to_network(blurry)
        for axis, multiple in enumerate(config.multiple, start=1):
            image = _reflected(image, axis, multiple)
        output: Any = module.apply({"params": params}, image, stages=options.stages)
        sharp = lax.slice(output.image, (0, 0, 0, 0), (batch, height, width, channels))
        return jnp.clip(sharp + 0.5, 0, 1) if as_float else from_network(sharp)

    return deblur


def blurry(options: Options) -> jax.ShapeDtypeStruct:
    """Returns shape and dtype of an artefact's input; sizes that are left open are symbolic."""
    names = ("batch", "height", "width")
    fixed = (options.batch, *(options.size or (None, None)))
    text = ", ".join(str(size or name) for size, name in zip(fixed, names, strict=True))
    shape = jax.export.symbolic_shape(f"{text}, 3")
    return jax.ShapeDtypeStruct(shape, jnp.uint8 if options.pixels == "uint8" else jnp.float32)


def _reflected(images: jax.Array, axis: int, multiple: int) -> jax.Array:
    """Pads an axis at its end by reflection, again and again where it is shorter than that.

    The sizes may be symbolic: `jnp.pad` would have to know them.
    """
    size = images.shape[axis]
    padded = (size + multiple - 1) // multiple * multiple
    if isinstance(size, int) and size == padded:
        return images
    period = lax.max(jnp.asarray(2 * size - 2, jnp.int32), jnp.int32(1))  # of one pixel: 1
    period = lax.broadcast(period, (padded,))
    place = lax.rem(lax.broadcasted_iota(jnp.int32, (padded,), 0), period)
    index = lax.min(place, period - place)
    where = (slice(None),) * axis + (index,)
    return images.at[where].get(mode="promise_in_bounds", wrap_negative_indices=False)
