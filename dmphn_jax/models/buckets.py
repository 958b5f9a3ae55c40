"""Convolutions of images of many sizes in arrays of one: a program then serves them all."""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

from dmphn_jax.models.convolutions import Convolution, Convolutions
from dmphn_jax.models.patches import Grid


@dataclasses.dataclass(frozen=True, eq=False)
class BucketConvolutions(Convolutions):
    """Others' convolutions for images that fill the top left of their arrays.

    What a network makes of the image is what it makes of it alone: patches are cut where the
    image's lie, and the row and the column behind a patch are zeros before every convolution, as
    its border would be. No convolution looks further; what it makes there is of no meaning.
    Encoders and decoders of another layout do that themselves, by `filled`.

    One object belongs to one trace: the image's size is a value of the program.

    Attributes:
      convolutions: that compute.
      array: (height, width) of the arrays at full resolution, a constant.
      image: (height, width) of the image in them, int32; the patch grid divides both sizes.
    """

    convolutions: Convolutions
    array: tuple[int, int]
    image: tuple[jax.Array, jax.Array]

    @property
    def encoder(self) -> type[nn.Module] | None:  # type: ignore[override]
        """See `Convolutions`."""
        return self.convolutions.encoder

    @property
    def decoder(self) -> type[nn.Module] | None:  # type: ignore[override]
        """See `Convolutions`."""
        return self.convolutions.decoder

    def precision(self, exact: lax.PrecisionLike) -> lax.PrecisionLike:
        """See `Convolutions`."""
        return self.convolutions.precision(exact)

    def in_tf32(self) -> Convolutions:
        """See `Convolutions`."""
        return dataclasses.replace(self, tf32=True, convolutions=self.convolutions.in_tf32())

    def fold(self, image: jax.Array) -> jax.Array:
        """See `Convolutions`."""
        return self.convolutions.fold(image)

    def unfold(self, image: jax.Array) -> jax.Array:
        """See `Convolutions`."""
        return self.convolutions.unfold(image)

    def convolve(
        self,
        kind: Convolution,
        x: jax.Array,
        kernel: jax.Array,
        bias: jax.Array,
        residual: jax.Array | None = None,
    ) -> jax.Array:
        """See `Convolutions`."""
        return self._bordered(self.convolutions.convolve(kind, x, kernel, bias, residual))

    def prepare(
        self, kind: Convolution, kernel: jax.Array, bias: jax.Array, dtype: DTypeLike
    ) -> Any:
        """See `Convolutions`."""
        return self.convolutions.prepare(kind, kernel, bias, dtype)

    def convolve_prepared(
        self,
        kind: Convolution,
        x: jax.Array,
        prepared: Any,
        residual: jax.Array | None = None,
    ) -> jax.Array:
        """See `Convolutions`."""
        return self._bordered(self.convolutions.convolve_prepared(kind, x, prepared, residual))

    def split(self, x: jax.Array, grid: Grid) -> jax.Array:
        """See `Convolutions`."""
        for axis, patches in zip((1, 2), grid, strict=True):
            if patches > 1:
                size = x.shape[axis] // patches
                number, place = jnp.divmod(jnp.arange(x.shape[axis]), size)
                index = number * (self._filled(x, axis) // patches) + place
                x = jnp.take(x, index, axis, mode="clip")
        return self._bordered(self.convolutions.split(x, grid))

    def join(self, x: jax.Array, grid: Grid) -> jax.Array:
        """See `Convolutions`."""
        x = self.convolutions.join(x, grid)
        for axis, patches in zip((1, 2), grid, strict=True):
            if patches > 1:
                size = x.shape[axis] // patches
                filled = self._filled(x, axis) // patches
                number, place = jnp.divmod(jnp.arange(x.shape[axis]), filled)
                x = jnp.take(x, number * size + place, axis, mode="clip")
        return x

    def filled(self, height: int, width: int) -> tuple[jax.Array, jax.Array]:
        """See `Convolutions`."""
        rows, columns = self.image
        return rows * height // self.array[0], columns * width // self.array[1]

    def _filled(self, x: jax.Array, axis: int) -> jax.Array:
        """How much of an axis an image, or each of its patches, fills at x's resolution."""
        return self.filled(*x.shape[1:3])[axis - 1]

    def _bordered(self, x: jax.Array) -> jax.Array:
        for axis in (1, 2):
            filled, last = self._filled(x, axis), x.shape[axis] - 1
            at = jnp.minimum(filled, last)
            line = lax.dynamic_slice_in_dim(x, at, 1, axis)
            line = jnp.where(filled > last, line, 0)  # an image may fill its array
            x = lax.dynamic_update_slice_in_dim(x, line.astype(x.dtype), at, axis)
        return x
