"""What the device can do at most, measured: a large matrix product per precision, a large copy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from dmphn_jax.benchmarking.timing import Case, measure, queue_for

# Rows of the square matrices and megabytes of the array; about a second in all.
_SIZES = {"cpu": (1536, 256), "gpu": (8192, 2048), "tpu": (8192, 2048)}
_SMALL = (256, 4)  # for tests
# Precision -> (dtype, precision of the product). On a GPU the default of float32 is TF32.
_PRODUCTS: dict[str, tuple[str, Any]] = {
    "float32": ("float32", lax.Precision.HIGHEST),
    "tf32": ("float32", lax.Precision.DEFAULT),
    "bfloat16": ("bfloat16", None),
    "float16": ("float16", None),
}


def ceilings(
    device: jax.Device, *, torch_device: Any = None, small: bool = False
) -> list[dict[str, Any]]:
    """Measures the device's ceilings: the best of several runs each.

    Args:
      device: JAX's.
      torch_device: the same for PyTorch, whose matrix products are measured too; None: not.
      small: sizes that say nothing and take no time.

    Returns:
      A dict per ceiling: `kind` "matmul" with `precision`, `by` (the library), `size` (rows) and
      `per_second` (operations, two per multiply-add), or "copy" with `bytes` moved and
      `per_second` (bytes read and written).
    """
    rows, megabytes = _SMALL if small else _SIZES.get(device.platform, _SIZES["cpu"])
    queue = queue_for(device)
    names = ["float32", "bfloat16"]
    if device.platform == "gpu":
        names += ["tf32", "float16"]
    found = []
    for name in names:
        cases = [_product(rows, name, device)]
        if torch_device is not None and name != "tf32":
            from dmphn_jax.benchmarking.torch_cases import matmul_case

            cases.append(matmul_case(rows, name, torch_device))
        for case, seconds in zip(cases, _best(cases, queue), strict=True):
            found.append(
                {
                    "kind": "matmul",
                    "precision": name,
                    "by": case.name.split()[0],
                    "size": rows,
                    "per_second": 2 * rows**3 / seconds,
                }
            )
    moved, case = _copy(megabytes, device)
    (seconds,) = _best([case], queue)
    found.append({"kind": "copy", "by": "jax", "bytes": moved, "per_second": moved / seconds})
    return found


def ceiling(
    found: Sequence[dict[str, Any]], kind: str, precision: str | None = None
) -> float | None:
    """Returns the highest `per_second` of a kind and precision; None where none was measured."""
    rates = [
        row["per_second"]
        for row in found
        if row["kind"] == kind and row.get("precision") == precision
    ]
    return max(rates, default=None)


def _product(rows: int, name: str, device: jax.Device) -> Case:
    dtype, precision = _PRODUCTS[name]
    with jax.default_device(device):
        a = jax.random.normal(jax.random.key(0), (rows, rows), jnp.float32).astype(dtype)
    product = jax.jit(lambda a: jnp.matmul(a, a, precision=precision))
    return Case(f"jax {name}", lambda: product(a), jax.block_until_ready)


def _copy(megabytes: int, device: jax.Device) -> tuple[int, Case]:
    """Returns the bytes read and written, and the case: x + 1, in place.

    A new array every time would measure the host's page faults too.
    """
    count = megabytes * 1_000_000 // 4
    with jax.default_device(device):
        x = jnp.zeros(count, jnp.float32)
    add = jax.jit(lambda x: x + 1, donate_argnums=0)

    def start() -> jax.Array:
        nonlocal x
        x = add(x)
        return x

    return 8 * count, Case("jax copy", start, jax.block_until_ready)


def _best(cases: Sequence[Case], queue: int) -> list[float]:
    """Returns the least seconds of each case."""
    times = measure(cases, warmup=1, rounds=10, seconds=0.5, queue=queue)
    return [min(t.single + t.queued) / 1000 for t in times]
