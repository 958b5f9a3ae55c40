"""The loaded kernels, as functions of JAX."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

TARGETS = ("dmphn_convolve", "dmphn_filter_gradient")


@dataclasses.dataclass(frozen=True)
class Kernels:
    """The kernels of this process. All arrays are float32.

    Attributes:
      lanes: float32 numbers in a vector of this processor; features must be a multiple of it.
      digest: of the library. Programs that JAX keeps on disk name their kernels: other kernels
        need other names.
    """

    lanes: int
    digest: str

    def name(self, target: str) -> str:
        """Returns what a target of `TARGETS` is registered as."""
        return f"{target}_{self.digest}"

    def serve(self, dtype: Any, features: int) -> bool:
        """Tells whether `convolve` and `filter_gradient` can make so many features."""
        return dtype == jnp.float32 and not features % self.lanes

    def convolve(
        self,
        x: jax.Array,
        kernel: jax.Array,
        bias: jax.Array | None = None,
        residual: jax.Array | None = None,
        *,
        stride: int = 1,
        transposed: bool = False,
        swapped: bool = False,
        flipped: bool = False,
        relu: bool = False,
    ) -> jax.Array:
        """Convolution with a border of 1, then `+ bias`, `+ residual` and ReLU.

            y[i, j] = sum over r, s of x[stride * i + r - 1, stride * j + s - 1] @ w[r, s]

        with H' = H / stride and W' = W / stride, which divides them, or, transposed, with
        H' = stride * H and W' = stride * W,

            y[stride * i + r - 1, stride * j + s - 1] = sum of all x[i, j] @ w[r, s] that meet there

        Args:
          x: (B, H, W, C).
          kernel: w, (k, k, C, D), k 3 or 4; D is a multiple of `lanes`.
          bias: (D).
          residual: (B, H', W', D).
          stride: 1 or 2.
          transposed: see above; with a stride of 1 it would be the same as flipped: not allowed.
          swapped: the kernel comes as (k, k, D, C).
          flipped: the kernel comes reversed in both its rows and its columns.
          relu: whether to apply it.

        Returns (B, H', W', D).
        """
        batch, height, width, _ = x.shape
        height, width = (
            (height * stride, width * stride) if transposed else (height // stride, width // stride)
        )
        shape = (batch, height, width, kernel.shape[2 if swapped else 3])
        none = np.zeros(0, np.float32)
        return self._call("dmphn_convolve", jax.ShapeDtypeStruct(shape, jnp.float32))(
            x,
            kernel,
            none if bias is None else bias,
            none if residual is None else residual,
            stride=np.int64(stride),
            transposed=transposed,
            swapped=swapped,
            flipped=flipped,
            relu=relu,
        )

    def filter_gradient(
        self,
        x: jax.Array,
        g: jax.Array,
        size: int,
        *,
        stride: int = 1,
        swapped: bool = False,
        flipped: bool = False,
    ) -> tuple[jax.Array, jax.Array]:
        """Filter gradient of `convolve`, and the gradient of its bias.

        Args:
          x: (B, stride * H, stride * W, C).
          g: (B, H, W, D).
          size: of the kernel, 3 or 4.
          stride: 1 or 2.
          swapped: return (size, size, D, C).
          flipped: return it reversed in both rows and columns.

        Returns the sums over b, i, j of
        x[b, stride * i + r - 1, stride * j + s - 1, c] * g[b, i, j, d], (size, size, C, D), and the
        sum of g over b, i, j, (D).
        """
        channels, features = x.shape[3], g.shape[3]
        inner = (features, channels) if swapped else (channels, features)
        shapes = ((size, size, *inner), (features,))
        return self._call(
            "dmphn_filter_gradient", tuple(jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes)
        )(x, g, stride=np.int64(stride), swapped=swapped, flipped=flipped)

    def _call(self, target: str, results: Any) -> Any:
        return jax.ffi.ffi_call(self.name(target), results, vmap_method="sequential")
