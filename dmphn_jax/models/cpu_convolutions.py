"""The convolutions and their gradients by the C++ kernels of `cpu_kernels`.

The tests hold them equal to XLA's.
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
from jax import lax

from dmphn_jax.cpu_kernels import Kernels
from dmphn_jax.models.convolutions import Convolutions


@dataclasses.dataclass(frozen=True)
class CpuConvolutions(Convolutions):
    """C++ kernels where they serve (float32, whole vectors of channels), else XLA's.

    A program that is lowered for another platform than the CPU has XLA's alone.

    Attributes:
      kernels: loaded.
    """

    kernels: Kernels

    def forward(self, kind, x, kernel, bias, residual):
        """See `Convolutions`."""

        def by_kernels(x, kernel, bias, residual):
            return self.kernels.convolve(
                x,
                kernel,
                bias,
                residual,
                stride=2 if kind.transposed else kind.stride,
                transposed=kind.transposed,
                flipped=kind.transposed,
                relu=kind.relu,
            )

        def by_xla(x, kernel, bias, residual):
            return super(CpuConvolutions, self).forward(kind, x, kernel, bias, residual)

        if not self.kernels.serve(x.dtype, kernel.shape[3]):
            return by_xla(x, kernel, bias, residual)
        return lax.platform_dependent(x, kernel, bias, residual, cpu=by_kernels, default=by_xla)

    def input_gradient(self, kind, x, kernel, g):
        """See `Convolutions`."""

        def by_kernels(x, kernel, g):
            # The adjoint of a transposed convolution is a strided one, and the other way round.
            return self.kernels.convolve(
                g,
                kernel,
                stride=2 if kind.transposed else kind.stride,
                transposed=kind.stride == 2,
                swapped=True,
                flipped=kind.stride == 1,
            )

        def by_xla(x, kernel, g):
            return super(CpuConvolutions, self).input_gradient(kind, x, kernel, g)

        if not self.kernels.serve(x.dtype, x.shape[3]):
            return by_xla(x, kernel, g)
        return lax.platform_dependent(x, kernel, g, cpu=by_kernels, default=by_xla)

    def kernel_gradient(self, kind, x, kernel, g):
        """See `Convolutions`."""
        channels, features = kernel.shape[2:]

        def direct(x, kernel, g):
            del kernel
            return self.kernels.filter_gradient(x, g, 3, stride=kind.stride)

        def exchanged(x, kernel, g):
            """With g, as large as x or larger, in the place of the image."""
            del kernel
            size, stride = (4, 2) if kind.transposed else (3, 1)
            of_kernel, _ = self.kernels.filter_gradient(
                g, x, size, stride=stride, swapped=True, flipped=True
            )
            # As a product with ones the sum takes a third of the time of a reduction.
            rows = jnp.reshape(g, (-1, features))
            ones = jnp.ones(len(rows), g.dtype)
            return of_kernel, jnp.matmul(ones, rows, precision=lax.Precision.HIGHEST)

        def by_xla(x, kernel, g):
            return super(CpuConvolutions, self).kernel_gradient(kind, x, kernel, g)

        if not kind.transposed and self.kernels.serve(x.dtype, features):
            by_kernels = direct
        elif kind.stride == 1 and self.kernels.serve(x.dtype, channels):
            by_kernels = exchanged
        else:
            return by_xla(x, kernel, g)
        return lax.platform_dependent(x, kernel, g, cpu=by_kernels, default=by_xla)
