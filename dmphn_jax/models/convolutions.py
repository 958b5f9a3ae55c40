"""The two convolutions of the networks, and the formulations that compute them.

Which formulation a model computes with is the field `convolutions` of its modules: an object that
is chosen before anything is traced, so that tracing runs nothing but JAX.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

from dmphn_jax.models.patches import Grid, join_patches, split_patches

_LAYOUT = ("NHWC", "HWIO", "NHWC")


class Convolution(NamedTuple):
    """Which of the convolutions, and what follows it.

    Attributes:
      stride: 1 or 2 of the 3x3 convolution; 1 if transposed.
      transposed: 4x4 with a stride of 2, which doubles height and width.
      relu: whether to apply it.
      precision: of the products; None lets float32 use the device's fast approximations.
      output: dtype of the result where it is not the kernel's.
    """

    stride: int = 1
    transposed: bool = False
    relu: bool = False
    precision: lax.PrecisionLike = None
    output: DTypeLike | None = None


@dataclasses.dataclass(frozen=True)
class Convolutions:
    """XLA's convolutions, as they are: the formulation for every platform.

    Others derive from it and replace what they compute otherwise. One that computes gradients its
    own way replaces `forward`, `input_gradient` and `kernel_gradient`; one that lays tensors out
    differently has an `encoder` and a `decoder` of its own and says how images and patches lie:
    `fold`, `unfold`, `split`, `join`; one whose images do not fill their arrays replaces the last
    two, and `filled`. Features between encoders and decoders are
    (B, H/4, W/4, 4*width) with every formulation, and the parameters are the same. Objects are
    hashable, and equal if they compute the same.

    Attributes:
      encoder, decoder: modules in place of `blocks.Encoder` and `blocks.Decoder`, made of
        (width, dtype, convolutions); None for those.
      prepares: whether `prepare` makes anything.
      tf32: let a GPU round the factors of float32 products to TF32's 11 bits: `precision`.
    """

    encoder: ClassVar[type[nn.Module] | None] = None
    decoder: ClassVar[type[nn.Module] | None] = None
    prepares: ClassVar[bool] = False
    tf32: bool = dataclasses.field(default=False, kw_only=True)

    def precision(self, exact: lax.PrecisionLike) -> lax.PrecisionLike:
        """Returns the precision of products that would have the precision `exact`.

        HIGH may be TF32 on a GPU, is three products of bfloat16 on a TPU, which keep 16 bits of a
        factor, and float32 on a CPU.
        """
        return lax.Precision.HIGH if self.tf32 else exact

    def in_tf32(self) -> Convolutions:
        """Returns the same formulation with `tf32`."""
        return dataclasses.replace(self, tf32=True)

    def fold(self, image: jax.Array) -> jax.Array:
        """Returns an image (B, H, W, 3) as it lies between encoders and decoders."""
        return image

    def unfold(self, image: jax.Array) -> jax.Array:
        """Returns `fold`'s argument, (B, H, W, 3), from its result."""
        return image

    def split(self, x: jax.Array, grid: Grid) -> jax.Array:
        """Cuts a folded image, or features, into patches on the batch axis: `split_patches`."""
        return split_patches(x, grid)

    def join(self, x: jax.Array, grid: Grid) -> jax.Array:
        """Inverse of `split`: `join_patches`."""
        return join_patches(x, grid)

    def filled(self, height: int, width: int) -> tuple[jax.Array, jax.Array] | None:
        """Returns how many rows and columns of patches the images fill; None for all of them.

        Args:
          height, width: of the patches' arrays, at any resolution.
        """
        return None

    def convolve(
        self,
        kind: Convolution,
        x: jax.Array,
        kernel: jax.Array,
        bias: jax.Array,
        residual: jax.Array | None = None,
    ) -> jax.Array:
        """Convolves (B, H, W, C) to (B, H', W', D), adds bias (D) and residual, and applies ReLU.

        `kernel` is (3, 3, C, D), with a border of one zero and H' = H/stride; or, transposed,
        (4, 4, C, D), with H' = 2H. That one equals PyTorch's `ConvTranspose2d(C, D, 4, stride=2,
        padding=1)` for `kernel[i, j] = weight[:, :, 3 - i, 3 - j]`.

        It computes in the kernel's dtype; x may have another one.

        Forward-mode differentiation is not defined.
        """
        y = differentiable(self, kind, x.astype(kernel.dtype), kernel, bias, residual)
        return y if kind.output is None else y.astype(kind.output)

    def prepare(
        self, kind: Convolution, kernel: jax.Array, bias: jax.Array, dtype: DTypeLike
    ) -> Any:
        """Returns what `convolve_prepared` takes for a kernel, a bias and x's dtype.

        It is what is the same for every image: inference computes it once, where `prepares`.
        """
        raise NotImplementedError

    def convolve_prepared(
        self,
        kind: Convolution,
        x: jax.Array,
        prepared: Any,
        residual: jax.Array | None = None,
    ) -> jax.Array:
        """`convolve` with what `prepare` has made of kernel and bias."""
        raise NotImplementedError

    def forward(
        self,
        kind: Convolution,
        x: jax.Array,
        kernel: jax.Array,
        bias: jax.Array,
        residual: jax.Array | None,
    ) -> jax.Array:
        """Computes `convolve`."""
        y = _alone(kind, x, kernel) + bias
        if residual is not None:
            y = y + residual
        return nn.relu(y) if kind.relu else y

    def input_gradient(
        self, kind: Convolution, x: jax.Array, kernel: jax.Array, g: jax.Array
    ) -> jax.Array:
        """Gradient of the convolution for x, from the gradient g at its output, before ReLU."""
        return jax.vjp(lambda x: _alone(kind, x, kernel), x)[1](g)[0]

    def kernel_gradient(
        self, kind: Convolution, x: jax.Array, kernel: jax.Array, g: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Gradients of the convolution for its kernel and its bias (D); see `input_gradient`."""
        of_kernel = jax.vjp(lambda kernel: _alone(kind, x, kernel), kernel)[1](g)[0]
        return of_kernel, jnp.sum(g, (0, 1, 2))


XLA = Convolutions()


@dataclasses.dataclass(frozen=True)
class DilatedConvolutions(Convolutions):
    """XLA's, with transposed convolutions that XLA can split by rows over devices.

    The sub-pixel form interleaves rows, for which it gathers them all on every device.
    """

    def forward(
        self,
        kind: Convolution,
        x: jax.Array,
        kernel: jax.Array,
        bias: jax.Array,
        residual: jax.Array | None,
    ) -> jax.Array:
        """See `Convolutions`."""
        if not kind.transposed:
            return super().forward(kind, x, kernel, bias, residual)
        y = bias + lax.conv_general_dilated(
            x,
            kernel,
            (1, 1),
            ((2, 2), (2, 2)),
            lhs_dilation=(2, 2),
            dimension_numbers=_LAYOUT,
            precision=kind.precision,
        )
        if residual is not None:
            y = y + residual
        return nn.relu(y) if kind.relu else y


@dataclasses.dataclass(frozen=True)
class ShapesOnly(Convolutions):
    """Zeros in the place of every result: to trace a network's parameters, in half the time."""

    def convolve(
        self,
        kind: Convolution,
        x: jax.Array,
        kernel: jax.Array,
        bias: jax.Array,
        residual: jax.Array | None = None,
    ) -> jax.Array:
        """Returns zeros of the shape and dtype of the convolution's result."""
        batch, height, width, _ = x.shape
        size = (2 * height, 2 * width) if kind.transposed else (height, width)
        shape = (batch, size[0] // kind.stride, size[1] // kind.stride, kernel.shape[3])
        return jnp.zeros(shape, kind.output or kernel.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _convolve(
    convolutions: Convolutions,
    kind: Convolution,
    x: jax.Array,
    kernel: jax.Array,
    bias: jax.Array,
    residual: jax.Array | None,
) -> jax.Array:
    return convolutions.forward(kind, x, kernel, bias, residual)


def _convolve_forward(convolutions: Convolutions, kind: Convolution, x, kernel, bias, residual):
    y = _convolve(convolutions, kind, x, kernel, bias, residual)
    return y, (x, kernel, y if kind.relu else None, residual is not None)


def _convolve_backward(convolutions: Convolutions, kind: Convolution, saved: Any, g: jax.Array):
    x, kernel, y, has_residual = saved
    if y is not None:
        # For y >= 0 the same as y > 0, which XLA would take back to what ReLU was applied to: a GPU
        # then keeps that in memory too, and ReLU is a pass of its own.
        g = jnp.where(y != 0, g, 0)
    return (
        convolutions.input_gradient(kind, x, kernel, g),
        *convolutions.kernel_gradient(kind, x, kernel, g),
        g if has_residual else None,
    )


_convolve.defvjp(_convolve_forward, _convolve_backward)
# Without it a call outside of jit compiles `_convolve` anew each time, and a network lowers each of
# its convolutions, not each kind once.
differentiable = jax.jit(_convolve, static_argnums=(0, 1))


def _alone(kind: Convolution, x: jax.Array, kernel: jax.Array) -> jax.Array:
    """The convolution, without what follows it."""
    if kind.transposed:
        return _transposed(x, kernel, kind.precision)
    return lax.conv_general_dilated(
        x,
        kernel,
        (kind.stride, kind.stride),
        ((1, 1), (1, 1)),
        dimension_numbers=_LAYOUT,
        precision=kind.precision,
    )


def _transposed(x: jax.Array, kernel: jax.Array, precision: lax.PrecisionLike) -> jax.Array:
    """The transposed convolution as a sub-pixel convolution.

    Each of the four output phases sees 2x2 of the input, so one 2x2 convolution gives all four
    phases, and no multiplication meets an inserted zero.
    """
    y = lax.conv_general_dilated(
        x,
        phase_kernel(kernel),
        (1, 1),
        ((1, 1), (1, 1)),
        dimension_numbers=_LAYOUT,
        precision=precision,
    )
    return interleaved(y)


def phase_kernel(kernel: jax.Array) -> jax.Array:
    """The 2x2 kernel (2, 2, C, 4*D) of all phases of a transposed convolution's, (4, 4, C, D)."""
    channels, features = kernel.shape[2:]
    # With a border of one, pixels 2i - 1 and 2i of the output are taps (1, 3) and (0, 2) of the
    # kernel on inputs (i - 1, i). Axes: tap row, phase row, tap column, phase column, C, D.
    taps = jnp.flip(jnp.reshape(kernel, (2, 2, 2, 2, channels, features)), (1, 3))
    taps = jnp.transpose(taps, (0, 2, 4, 1, 3, 5))
    return jnp.reshape(taps, (2, 2, channels, 4 * features))


def interleaved(y: jax.Array) -> jax.Array:
    """The phases (B, h + 1, w + 1, 4*D), with a border of one, as pixels (B, 2*h, 2*w, D)."""
    return from_blocks(y)[:, 1:-1, 1:-1]


def from_blocks(x: jax.Array) -> jax.Array:
    """Blocks of 2x2 pixels (B, h, w, 4*C) as pixels (B, 2*h, 2*w, C)."""
    batch, height, width, channels = x.shape
    x = jnp.reshape(x, (batch, height, width, 2, 2, channels // 4))
    x = jnp.transpose(x, (0, 1, 3, 2, 4, 5))
    return jnp.reshape(x, (batch, 2 * height, 2 * width, channels // 4))
