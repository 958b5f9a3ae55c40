"""What JAX's primitives are in TensorFlow: those that the networks of this package are made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from jax.extend.core import JaxprEqn
from jax.lax import RoundingMethod

from dmphn_jax.export.walk import Rule, result_of

_ELEMENTWISE: dict[str, Callable[..., Any]] = {
    "add": tf.add,
    "sub": tf.subtract,
    "mul": tf.multiply,
    "div": tf.divide,
    "rem": tf.truncatemod,
    "max": tf.maximum,
    "min": tf.minimum,
    "abs": tf.abs,
    "lt": tf.less,
    "le": tf.less_equal,
    "gt": tf.greater,
    "ge": tf.greater_equal,
    "eq": tf.equal,
    "ne": tf.not_equal,
    "and": tf.logical_and,  # of booleans
}
_NHWC = ((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))  # as JAX numbers axes


class Rules:
    """The rules for one function: constants are NumPy arrays, all else tensors of TensorFlow."""

    def __init__(self, sizes: Mapping[str, Any]) -> None:
        """Takes the value of every symbolic size."""
        self._sizes = {"floordiv": tf.math.floordiv, "mod": tf.math.floormod, **sizes}
        self._sizes |= {"max": tf.maximum, "min": tf.minimum}

    def by_name(self) -> dict[str, Rule]:
        """Returns a rule for every primitive."""
        return {
            **{name: _plain(function) for name, function in _ELEMENTWISE.items()},
            "round": _round,
            "convert_element_type": _convert,
            "select_n": lambda eqn, values: tf.where(values[0], values[2], values[1]),
            "transpose": lambda eqn, values: tf.transpose(values[0], eqn.params["permutation"]),
            "reduce_sum": lambda eqn, values: tf.reduce_sum(values[0], eqn.params["axes"]),
            "dot_general": _dot,
            "reshape": self._reshape,
            "squeeze": self._reshape,
            "broadcast_in_dim": self._broadcast,
            "iota": self._iota,
            "dim_as_value": self._size_as_value,
            "slice": self._slice,
            "gather": self._gather,
            "conv_general_dilated": self._convolve,
        }

    def _size(self, size: Any) -> Any:
        """Returns a size, which JAX writes as 4*floordiv(height + 7, 8), say, as an int32."""
        return size if isinstance(size, int) else eval(str(size), {}, self._sizes)

    def _shape(self, sizes: Any) -> list[Any]:
        return [self._size(size) for size in sizes]

    def _reshape(self, eqn: JaxprEqn, values: list[Any]) -> Any:
        return tf.reshape(values[0], self._shape(result_of(eqn).shape))

    def _broadcast(self, eqn: JaxprEqn, values: list[Any]) -> Any:
        (x,), shape = values, eqn.params["shape"]
        places, sizes = eqn.params["broadcast_dimensions"], _shape_of(eqn)
        thin = [sizes[places.index(axis)] if axis in places else 1 for axis in range(len(shape))]
        if isinstance(x, np.ndarray) and tuple(thin) == tuple(shape):
            return x.reshape(shape)  # a bias
        return tf.broadcast_to(tf.reshape(x, self._shape(thin)), self._shape(shape))

    def _iota(self, eqn: JaxprEqn, values: list[Any]) -> Any:
        shape, axis = eqn.params["shape"], eqn.params["dimension"]
        numbers = tf.cast(tf.range(self._size(shape[axis])), eqn.params["dtype"])
        thin = [-1 if i == axis else 1 for i in range(len(shape))]
        return tf.broadcast_to(tf.reshape(numbers, thin), self._shape(shape))

    def _size_as_value(self, eqn: JaxprEqn, values: list[Any]) -> Any:
        return tf.cast(self._size(eqn.params["dim"]), result_of(eqn).dtype)

    def _slice(self, eqn: JaxprEqn, values: list[Any]) -> Any:
        starts, limits = eqn.params["start_indices"], eqn.params["limit_indices"]
        strides = eqn.params["strides"] or [1] * len(starts)
        ends = self._shape(limits)
        return tf.strided_slice(values[0], self._shape(starts), ends, list(strides))

    def _gather(self, eqn: JaxprEqn, values: list[Any]) -> Any:
        """Of gathers only that which takes whole slices along one axis, as `x[:, index]` does."""
        numbers, shape = eqn.params["dimension_numbers"], _shape_of(eqn)
        (axis,) = numbers.start_index_map
        sizes = tuple(1 if i == axis else size for i, size in enumerate(shape))
        others = tuple(i for i in range(len(shape)) if i != axis)
        if eqn.params["slice_sizes"] != sizes or numbers.offset_dims != others:
            raise NotImplementedError("a gather other than along one axis")
        return tf.gather(values[0], tf.reshape(values[1], [-1]), axis=axis)

    def _convolve(self, eqn: JaxprEqn, values: list[Any]) -> Any:
        """A convolution, or with a dilated input a transposed one."""
        (x, kernel), params = values, eqn.params
        groups = params["feature_group_count"], params["batch_group_count"]
        if tuple(params["dimension_numbers"]) != _NHWC or groups != (1, 1):
            raise NotImplementedError("a convolution other than NHWC, without groups")
        if not isinstance(kernel, np.ndarray):
            raise NotImplementedError("a convolution with weights that are not constant")
        strides, dilation = list(params["window_strides"]), list(params["rhs_dilation"])
        padding = [list(side) for side in params["padding"]]
        if tuple(params["lhs_dilation"]) == (1, 1):
            outer = [[0, 0], *padding, [0, 0]]
            return tf.nn.conv2d(x, kernel, strides, outer, dilations=dilation)
        if strides != [1, 1] or dilation != [1, 1]:
            raise NotImplementedError("a transposed convolution with strides or dilation")
        around = [
            [size - 1 - low, size - 1 - high]
            for size, (low, high) in zip(kernel.shape, padding, strict=False)
        ]
        return tf.nn.conv2d_transpose(
            x,
            kernel[::-1, ::-1].swapaxes(
                2, 3
            ),  # turned by half a turn, channels the other way round
            self._shape(result_of(eqn).shape),
            list(params["lhs_dilation"]),
            [[0, 0], *around, [0, 0]],
        )


def _shape_of(eqn: JaxprEqn) -> tuple[Any, ...]:
    aval: Any = eqn.invars[0].aval
    return aval.shape


def _plain(function: Callable[..., Any]) -> Rule:
    return lambda eqn, values: function(*values)


def _round(eqn: JaxprEqn, values: list[Any]) -> Any:
    if eqn.params["rounding_method"] != RoundingMethod.TO_NEAREST_EVEN:
        raise NotImplementedError("rounding other than to the nearest, halves to even")
    return tf.round(values[0])


def _convert(eqn: JaxprEqn, values: list[Any]) -> Any:
    (x,), dtype = values, eqn.params["new_dtype"]
    return x.astype(dtype) if isinstance(x, np.ndarray) else tf.cast(x, dtype)


def _dot(eqn: JaxprEqn, values: list[Any]) -> Any:
    (left_summed, right_summed), batch = eqn.params["dimension_numbers"]
    if batch != ((), ()):
        raise NotImplementedError("a batch of products of matrices")
    return tf.tensordot(*values, axes=(list(left_summed), list(right_summed)))
