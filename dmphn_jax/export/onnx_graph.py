"""A graph of ONNX as it grows: nodes, constants, sizes that are known only when it runs."""

from __future__ import annotations

import ast
import collections
import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

Order = tuple[int, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Value:
    """An array of JAX, and the tensor of ONNX that holds it.

    Attributes:
      shape: the array's; sizes may be symbolic.
      stored: that of the tensor, in the array's order of axes: 1 where ONNX is to broadcast.
      order: which of the array's axes each of the tensor's is. Convolutions of JAX are NHWC, of
        ONNX NCHW: most features lie in the order (0, 3, 1, 2), and a transposition of JAX moves
        nothing.
      dtype: of both.
      name: of the tensor; of a constant, of its initializer to be.
      constant: a constant's value, of the shape `stored`; else None.
    """

    shape: tuple[Any, ...]
    stored: tuple[Any, ...]
    order: Order
    dtype: np.dtype
    name: str
    constant: np.ndarray | None = None


def constant(array: Any, name: str = "constant") -> Value:
    """Returns a constant, which enters a graph with its first use."""
    array = np.asarray(array)
    return Value(array.shape, array.shape, identity(array.ndim), array.dtype, name, array)


def identity(rank: int) -> Order:
    """Returns the order in which nothing moves."""
    return tuple(range(rank))


class Graph:
    """Collects the nodes of a graph of one input."""

    def __init__(self, name: str, shape: Sequence[Any], dtype: np.dtype) -> None:
        """Makes a graph whose input `name` has sizes that are numbers or symbols of JAX."""
        self.input = Value(tuple(shape), tuple(shape), identity(len(shape)), dtype, name)
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, onnx.TensorProto] = {}
        self._tensors: dict[tuple[Any, ...], str] = {}
        self._constants: dict[tuple[Any, ...], str] = {}
        self._sizes: dict[str, str] = {}
        self._count: collections.Counter[str] = collections.Counter()

    def node(self, op: str, inputs: Sequence[str], **attributes: Any) -> str:
        """Adds a node with one output; returns the output's name."""
        self._count[op] += 1
        name = f"{op}_{self._count[op]}"
        self.nodes.append(helper.make_node(op, inputs, [name], name, **attributes))
        return name

    def initializer(self, array: np.ndarray, name: str) -> str:
        """Adds a constant under its name, or one like it if that is taken; equal ones once."""
        array = np.ascontiguousarray(array).reshape(array.shape)
        key = (name, array.dtype, array.shape, hashlib.sha256(array.data).digest())
        if key not in self._constants:
            self._count[name] += 1
            made = f"{name}_{self._count[name]}" if name in self.initializers else name
            self.initializers[made] = numpy_helper.from_array(array, made)
            self._constants[key] = made
        return self._constants[key]

    def tensor(self, value: Value, order: Order | None = None, *, whole: bool = False) -> str:
        """Returns the name of the tensor that holds a value.

        Args:
          value: which.
          order: of the tensor's axes; as the value lies by default.
          whole: of the value's own shape, where a part of it would be broadcast.
        """
        order = value.order if order is None else order
        key = (value.name if value.constant is None else value, order, whole)
        if key not in self._tensors:
            self._tensors[key] = self._make_tensor(value, order, whole)
        return self._tensors[key]

    def _make_tensor(self, value: Value, order: Order, whole: bool) -> str:
        if value.constant is not None:
            name = self.initializer(np.transpose(value.constant, order), value.name)
        elif order == value.order:
            name = value.name
        else:
            axes = [value.order.index(axis) for axis in order]
            name = self.node("Transpose", [value.name], perm=axes)
        if whole and value.stored != value.shape:
            name = self.node("Expand", [name, self.sizes([value.shape[axis] for axis in order])])
        return name

    def sizes(self, sizes: Sequence[Any]) -> str:
        """Returns a 1-D int64 tensor of sizes: a constant, or computed when the graph runs."""
        if all(isinstance(size, int) for size in sizes):
            key = f"sizes {tuple(sizes)}"
            if key not in self._sizes:
                self._sizes[key] = self.initializer(np.array(sizes, np.int64), "sizes")
            return self._sizes[key]
        return self.node("Concat", [self._size(_parse(size)) for size in sizes], axis=0)

    def size(self, size: Any) -> str:
        """Returns a size, or another number made of sizes, as a scalar int64 tensor."""
        return self.node("Squeeze", [self._size(_parse(size))])

    def _size(self, tree: ast.expr) -> str:
        """Returns the 1-D int64 tensor of one element that an expression of sizes stands for."""
        text = ast.unparse(tree)
        if text not in self._sizes:
            self._sizes[text] = self._compute_size(tree)
        return self._sizes[text]

    def _compute_size(self, tree: ast.expr) -> str:
        match tree:
            case ast.Constant(value=int(number)):
                return self.initializer(np.array([number], np.int64), "sizes")
            case ast.Name(id=name):
                axis = [str(size) for size in self.input.shape].index(name)
                return self.node("Shape", [self.input.name], start=axis, end=axis + 1)
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return self.node("Neg", [self._size(operand)])
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
                return self.node(_OPERATORS[type(op)], [self._size(left), self._size(right)])
            case ast.Call(func=ast.Name(id=name), args=[left, right]) if name in _FUNCTIONS:
                return self.node(_FUNCTIONS[name], [self._size(left), self._size(right)])
        raise NotImplementedError(f"a size of {ast.unparse(tree)}")

    def finish(self, value: Value, name: str) -> list[onnx.NodeProto]:
        """Returns the nodes that compute a value, which gets the name of the graph's output.

        Initializers without a use are gone then, and biases are part of their convolutions.
        """
        last = self.tensor(value, identity(len(value.shape)), whole=True)
        self.nodes.append(helper.make_node("Identity", [last], [name], name))
        self._drop_unused(name)
        self._merge_biases()
        self._drop_unused(name)
        if self.nodes[-2].output[0] == last:  # no need for the Identity
            self.nodes.pop()
            self.nodes[-1].output[0] = name
        return self.nodes

    def _drop_unused(self, output: str) -> None:
        used, kept = {output}, []
        for node in reversed(self.nodes):
            if node.output[0] in used:
                kept.append(node)
                used.update(node.input)
        self.nodes = kept[::-1]
        self.initializers = {k: v for k, v in self.initializers.items() if k in used}

    def _merge_biases(self) -> None:
        """Gives convolutions the constants, one per channel, that are added to nothing but them."""
        uses = collections.Counter(name for node in self.nodes for name in node.input)
        makers = {node.output[0]: node for node in self.nodes}
        for node in [node for node in self.nodes if node.op_type == "Add"]:
            ours, bias = node.input if node.input[0] in makers else reversed(node.input)
            maker = makers.get(ours)
            if maker is None or maker.op_type not in ("Conv", "ConvTranspose"):
                continue
            if uses[ours] > 1 or len(maker.input) > 2 or not self._is_per_channel(bias):
                continue
            values = numpy_helper.to_array(self.initializers[bias])
            maker.input.append(self.initializer(values.ravel(), bias))
            maker.output[0] = node.output[0]
            makers[node.output[0]] = maker
            self.nodes.remove(node)

    def _is_per_channel(self, name: str) -> bool:
        """Whether a tensor is a constant of the shape (1, C, 1, 1)."""
        found = self.initializers.get(name)
        sizes = [] if found is None else list(found.dims)
        return len(sizes) == 4 and sizes[:1] + sizes[2:] == [1, 1, 1]


_OPERATORS: dict[type[ast.operator], str] = {ast.Add: "Add", ast.Sub: "Sub", ast.Mult: "Mul"}
_FUNCTIONS = {"floordiv": "Div", "mod": "Mod", "max": "Max", "min": "Min"}  # of sizes from 0 up


def _parse(size: Any) -> ast.expr:
    """Reads a size as JAX writes symbolic ones: `4*floordiv(height + 7, 8)`."""
    return ast.parse(str(size), mode="eval").body
