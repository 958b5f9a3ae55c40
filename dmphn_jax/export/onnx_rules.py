"""What JAX's primitives are in ONNX: those that the networks of this package are made of."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jax.extend.core import InconclusiveDimensionOperation, JaxprEqn
from jax.lax import ConvDimensionNumbers, RoundingMethod
from onnx import helper

from dmphn_jax.export.onnx_graph import Graph, Order, Value, constant, identity
from dmphn_jax.export.walk import result_of

Rule = Callable[[Graph, JaxprEqn, list[Value]], Value]

# Element by element, with nothing but the operands to tell. Rem has the sign of the dividend.
_ELEMENTWISE: dict[str, tuple[str, dict[str, Any]]] = {
    "add": ("Add", {}),
    "sub": ("Sub", {}),
    "mul": ("Mul", {}),
    "div": ("Div", {}),
    "rem": ("Mod", {"fmod": 1}),
    "max": ("Max", {}),
    "min": ("Min", {}),
    "abs": ("Abs", {}),
    "lt": ("Less", {}),
    "le": ("LessOrEqual", {}),
    "gt": ("Greater", {}),
    "ge": ("GreaterOrEqual", {}),
    "eq": ("Equal", {}),
    "and": ("And", {}),  # of booleans
}


def elementwise(
    graph: Graph, eqn: JaxprEqn, values: Sequence[Value], op: str, **attributes: Any
) -> Value:
    """Adds a node for an operation on the elements of arrays, which broadcast as in NumPy."""
    result = result_of(eqn)
    if all(value.constant is not None for value in values):
        return _folded(eqn, values)
    rank = len(result.shape)
    order = next((v.order for v in values if v.order not in ((), identity(rank))), identity(rank))
    names = [graph.tensor(value, order if value.shape else ()) for value in values]
    stored = tuple(
        next((v.stored[axis] for v in values if v.shape and v.stored[axis] != 1), 1)
        for axis in range(rank)
    )
    return Value(result.shape, stored, order, result.dtype, graph.node(op, names, **attributes))


def _folded(eqn: JaxprEqn, values: Sequence[Value]) -> Value:
    """Computes on constants, for one: weights become float16 here and not when a graph runs."""
    arrays = [value.constant for value in values]
    stored = np.broadcast_shapes(*(array.shape for array in arrays if array is not None))
    result = np.asarray(eqn.primitive.bind(*arrays, **eqn.params))
    name = max(values, key=lambda value: len(value.shape)).name
    shape = result_of(eqn).shape
    return Value(shape, stored, identity(len(shape)), result.dtype, name, result)


def _maximum(graph: Graph, eqn: JaxprEqn, values: list[Value]) -> Value:
    for zero, other in (values, values[::-1]):
        is_zero = zero.constant is not None and not np.any(zero.constant)
        if is_zero and other.constant is None and np.issubdtype(other.dtype, np.floating):
            return elementwise(graph, eqn, [other], "Relu")
    return elementwise(graph, eqn, values, "Max")


def _not_equal(graph: Graph, eqn: JaxprEqn, values: list[Value]) -> Value:
    equal = elementwise(graph, eqn, values, "Equal")
    return elementwise(graph, eqn, [equal], "Not")


def _select(graph: Graph, eqn: JaxprEqn, values: list[Value]) -> Value:
    which, if_false, if_true = values
    return elementwise(graph, eqn, [which, if_true, if_false], "Where")


def _round(graph: Graph, eqn: JaxprEqn, values: list[Value]) -> Value:
    if eqn.params["rounding_method"] != RoundingMethod.TO_NEAREST_EVEN:
        raise NotImplementedError("rounding other than to the nearest, halves to even")
    return elementwise(graph, eqn, values, "Round")


def _convert(graph: Graph, eqn: JaxprEqn, values: list[Value]) -> Value:
    to = helper.np_dtype_to_tensor_dtype(np.dtype(eqn.params["new_dtype"]))
    return elementwise(graph, eqn, values, "Cast", to=to)


def _broadcast(graph: Graph, eqn: JaxprEqn, values: list[Value]) -> Value:
    """Leaves a size of 1 wherever something is repeated: ONNX broadcasts where it is used."""
    (x,), shape = values, eqn.params["shape"]
    places = eqn.params["broadcast_dimensions"]
    stored = tuple(
        x.stored[places.index(axis)] if axis in places else 1 for axis in range(len(shape))
    )
    array = None if x.constant is None else x.constant.reshape(stored)
    name = x.name
    if array is None:
        name = graph.node("Reshape", [graph.tensor(x, identity(len(x.shape))), graph.sizes(stored)])
    return Value(shape, stored, identity(len(shape)), x.dtype, name, array)


def _iota(graph: Graph, eqn: JaxprEqn, values: list[Value]) -> Value:
    shape, dtype = eqn.params["shape"], np.dtype(eqn.params["dtype"])
    axis = eqn.params["dimension"]
    to = helper.np_dtype_to_tensor_dtype(dtype)
    limit = graph.node("Cast", [graph.size(shape[axis])], to=to)
    ends = [graph.tensor(constant(np.array(end, dtype))) for end in (0, 1)]
    name = graph.node("Range", [ends[0], limit, ends[1]])
    stored = tuple(size if i == axis else 1 for i, size in enumerate(shape))
    if len(shape) > 1:
        name = graph.node("Reshape", [name, graph.sizes(stored)])
    return Value(shape, stored, identity(len(shape)), dtype, name)


def _size_as_value(graph: Graph, eqn: JaxprEqn, values: list[Value]) -> Value:
    dtype = result_of(eqn).dtype
    to = helper.np_dtype_to_tensor_dtype(dtype)
    name = graph.node("Cast", [graph.size(eqn.params["dim"])], to=to)
    return Value((), (), (), dtype, name)


def _transpose(graph: Graph, eqn: JaxprEqn, values: list[Value]) -> Value:
    (x,), axes = values, eqn.params["permutation"]
    shape, stored = ([sizes[axis] for axis in axes] for sizes in (x.shape, x.stored))
    if x.constant is not None:
        return constant(x.constant.transpose(axes), x.name)
    order = tuple(axes.index(axis) for axis in x.order)
    return Value(tuple(shape), tuple(stored), order, x.dtype, x.name)


def _reshape(graph: Graph, eqn: JaxprEqn, values: list[Value]) -> Value:
    (x,), shape = values, result_of(eqn).shape
    if x.constant is not None and x.stored == x.shape:
        return constant(x.constant.reshape(shape), x.name)
    groups = _groups(x.shape, shape)
    first, second = identity(len(x.shape)), identity(len(shape))
    if groups is not None:
        place = {axis: i for i, axis in enumerate(x.order)}
        in_place = all(
            place[b] == place[a] + 1 for s, _ in groups for a, b in itertools.pairwise(s)
        )
        if in_place:  # what is merged lies together as it is
            groups = sorted(groups, key=lambda group: place[group[0][0]])
        elif len(groups) == 4 == len(shape):  # patches cut or joined: a convolution is next
            groups = [groups[i] for i in (0, 3, 1, 2)]
        first = tuple(axis for sources, _ in groups for axis in sources)
        second = tuple(axis for _, targets in groups for axis in targets)
    source = graph.tensor(x, first, whole=True)
    name = graph.node("Reshape", [source, graph.sizes([shape[axis] for axis in second])])
    return Value(shape, shape, second, x.dtype, name)


def _groups(source: Sequence[Any], target: Sequence[Any]) -> list[tuple[Order, Order]] | None:
    """Returns which axes become which: (0, 1, 2) and (0,) for the first of (B, 2, 2, C) to (4B, C).

    None where symbolic sizes do not tell.
    """
    groups: list[tuple[Order, Order]] = []
    i = j = 0
    try:
        while i < len(source) and j < len(target):
            start, a, b = (i, j), source[i], target[j]
            i, j = i + 1, j + 1
            while a != b:
                if a < b:
                    a, i = a * source[i], i + 1
                else:
                    b, j = b * target[j], j + 1
            groups.append((tuple(range(start[0], i)), tuple(range(start[1], j))))
    except (InconclusiveDimensionOperation, IndexError):
        return None
    if not groups:  # from or to a scalar
        return None
    sources, targets = groups[-1]  # sizes of 1 at the end
    groups[-1] = (tuple(range(sources[0], len(source))), tuple(range(targets[0], len(target))))
    return groups


def _slice(graph: Graph, eqn: JaxprEqn, values: list[Value]) -> Value:
    (x,), shape = values, result_of(eqn).shape
    starts, limits = eqn.params["start_indices"], eqn.params["limit_indices"]
    strides = eqn.params["strides"] or (1,) * len(shape)
    cut = [
        axis
        for axis in range(len(shape))
        if not (starts[axis] == 0 and limits[axis] == x.shape[axis] and strides[axis] == 1)
    ]
    places = [x.order.index(axis) for axis in cut]
    parts = [[of[axis] for axis in cut] for of in (starts, limits)]
    inputs = [graph.tensor(x, whole=True), *(graph.sizes(part) for part in parts)]
    steps = graph.sizes([strides[axis] for axis in cut])
    name = graph.node("Slice", [*inputs, graph.sizes(places), steps])
    return Value(shape, shape, x.order, x.dtype, name)


def _gather(graph: Graph, eqn: JaxprEqn, values: list[Value]) -> Value:
    """Of gathers only that which takes whole slices along one axis, as `x[:, index]` does."""
    x, index = values
    numbers, shape = eqn.params["dimension_numbers"], result_of(eqn).shape
    axis = numbers.collapsed_slice_dims[0] if len(numbers.collapsed_slice_dims) == 1 else -1
    others = tuple(i for i in range(len(x.shape)) if i != axis)
    sizes = tuple(1 if i == axis else size for i, size in enumerate(x.shape))
    simple = (
        numbers.start_index_map == (axis,)
        and numbers.offset_dims == others
        and not numbers.operand_batching_dims
        and eqn.params["slice_sizes"] == sizes
        and len(index.shape) == 2
    )
    if not simple:
        raise NotImplementedError("a gather other than along one axis")
    places = graph.node("Reshape", [graph.tensor(index, whole=True), graph.sizes([-1])])
    source = graph.tensor(x, whole=True)
    name = graph.node("Gather", [source, places], axis=x.order.index(axis))
    return Value(shape, shape, x.order, x.dtype, name)


def _sum(graph: Graph, eqn: JaxprEqn, values: list[Value]) -> Value:
    (x,), axes = values, eqn.params["axes"]
    kept = [axis for axis in range(len(x.shape)) if axis not in axes]
    order = tuple(kept.index(axis) for axis in x.order if axis in kept)
    places = graph.sizes([x.order.index(axis) for axis in axes])
    name = graph.node("ReduceSum", [graph.tensor(x, whole=True), places], keepdims=0)
    shape = result_of(eqn).shape
    return Value(shape, shape, order, x.dtype, name)


def _dot(graph: Graph, eqn: JaxprEqn, values: list[Value]) -> Value:
    a, b = values
    (a_summed, b_summed), (a_batch, b_batch) = eqn.params["dimension_numbers"]
    a_letters = [chr(ord("a") + axis) for axis in range(len(a.shape))]
    b_letters = [chr(ord("n") + axis) for axis in range(len(b.shape))]
    for pairs in (zip(a_summed, b_summed, strict=True), zip(a_batch, b_batch, strict=True)):
        for of_a, of_b in pairs:
            b_letters[of_b] = a_letters[of_a]
    out = [a_letters[axis] for axis in a_batch]
    out += [s for axis, s in enumerate(a_letters) if axis not in (*a_batch, *a_summed)]
    out += [s for axis, s in enumerate(b_letters) if axis not in (*b_batch, *b_summed)]
    left, right = (
        "".join(letters[axis] for axis in value.order)
        for value, letters in ((a, a_letters), (b, b_letters))
    )
    names = [graph.tensor(value, whole=True) for value in values]
    name = graph.node("Einsum", names, equation=f"{left},{right}->{''.join(out)}")
    result = result_of(eqn)
    return Value(result.shape, result.shape, identity(len(result.shape)), result.dtype, name)


def _convolve(graph: Graph, eqn: JaxprEqn, values: list[Value]) -> Value:
    """A convolution, or with a dilated input a transposed one."""
    (x, kernel), params = values, eqn.params
    numbers: ConvDimensionNumbers = params["dimension_numbers"]
    if kernel.constant is None or params["batch_group_count"] != 1 or len(x.shape) != 4:
        raise NotImplementedError("a convolution other than of images with constant weights")
    padding, sizes = params["padding"], [kernel.shape[axis] for axis in numbers.rhs_spec[2:]]
    attributes = {"kernel_shape": sizes, "group": params["feature_group_count"]}
    source, op = graph.tensor(x, tuple(numbers.lhs_spec), whole=True), "Conv"
    if tuple(params["lhs_dilation"]) == (1, 1):
        attributes |= {"strides": params["window_strides"], "dilations": params["rhs_dilation"]}
        weights = graph.tensor(kernel, tuple(numbers.rhs_spec))
    else:
        plain = params["window_strides"], params["rhs_dilation"], params["feature_group_count"]
        if tuple(map(tuple, plain[:2])) != ((1, 1), (1, 1)) or plain[2] != 1:
            raise NotImplementedError("a transposed convolution with strides, dilation or groups")
        op = "ConvTranspose"  # its kernel is turned by half a turn, channels the other way round
        attributes |= {"strides": params["lhs_dilation"]}
        padding = [(n - 1 - low, n - 1 - high) for n, (low, high) in zip(sizes, padding)]
        out, inner, *spatial = numbers.rhs_spec
        turned = constant(np.flip(np.asarray(kernel.constant), tuple(spatial)), kernel.name)
        weights = graph.tensor(turned, (inner, out, *spatial))
    attributes |= {"pads": [side[i] for i in (0, 1) for side in padding]}
    result, name = result_of(eqn), graph.node(op, [source, weights], **attributes)
    return Value(result.shape, result.shape, tuple(numbers.out_spec), result.dtype, name)


def _plain(op: str, attributes: dict[str, Any]) -> Rule:
    return lambda graph, eqn, values: elementwise(graph, eqn, values, op, **attributes)


RULES: dict[str, Rule] = {
    **{name: _plain(op, attributes) for name, (op, attributes) in _ELEMENTWISE.items()},
    "max": _maximum,
    "ne": _not_equal,
    "select_n": _select,
    "round": _round,
    "convert_element_type": _convert,
    "broadcast_in_dim": _broadcast,
    "iota": _iota,
    "dim_as_value": _size_as_value,
    "transpose": _transpose,
    "reshape": _reshape,
    "squeeze": _reshape,
    "slice": _slice,
    "gather": _gather,
    "reduce_sum": _sum,
    "dot_general": _dot,
    "conv_general_dilated": _convolve,
}
"""By the primitive's name. A rule raises NotImplementedError for what no network here does."""
