"""Going through what JAX has traced, operation by operation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jax.extend.core import ClosedJaxpr, JaxprEqn, Literal

from dmphn_jax.errors import UserError

Rule = Callable[[JaxprEqn, list[Any]], Any]
"""Makes of an operation with one result, and of its operands, the result."""


def result_of(eqn: JaxprEqn) -> Any:
    """Returns what an operation gives: its shape, whose sizes may be symbolic, and its dtype."""
    return eqn.outvars[0].aval


def walk(
    traced: ClosedJaxpr,
    arguments: list[Any],
    rules: Mapping[str, Rule],
    constant: Callable[[np.ndarray], Any],
    format: str,
) -> list[Any]:
    """Returns the results of a traced function in another library's values.

    Args:
      traced: the function.
      arguments: its arguments as the library's values.
      rules: by the name of JAX's primitive. One raises NotImplementedError for what is possible
        in JAX, but not done by a network of this package.
      constant: makes a value of an array.
      format: that is written, for messages.

    Raises UserError naming an operation that has no rule.
    """
    values = {v: constant(np.asarray(c)) for v, c in zip(traced.jaxpr.constvars, traced.consts)}
    values |= dict(zip(traced.jaxpr.invars, arguments, strict=True))

    def value_of(atom: Any) -> Any:
        if isinstance(atom, Literal):
            aval: Any = atom.aval
            return constant(np.asarray(atom.val, aval.dtype))
        return values[atom]

    for eqn in traced.jaxpr.eqns:
        name, inputs = eqn.primitive.name, [value_of(atom) for atom in eqn.invars]
        inner = eqn.params.get("call_jaxpr", eqn.params.get("jaxpr"))
        if isinstance(inner, ClosedJaxpr):  # a function within: jit, custom_vjp_call, ...
            results = walk(inner, inputs, rules, constant, format)
        elif name not in rules:
            raise UserError(f"--format {format}: JAX's operation {name} has no rule here")
        else:
            try:
                results = [rules[name](eqn, inputs)]
            except NotImplementedError as error:
                raise UserError(f"--format {format}: not written here: {error}") from None
        values |= dict(zip(eqn.outvars, results, strict=True))
    return [value_of(atom) for atom in traced.jaxpr.outvars]
