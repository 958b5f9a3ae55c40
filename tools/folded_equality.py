"""Proves that the folded layout computes what the plain one computes: outputs and all gradients.

    python tools/folded_equality.py [--quick] [MODEL ...]

In float64, where what differs can only be the formulation: in float32 both layouts round, by about
1e-6 of the scale of an output, and a ReLU whose argument rounds to the other side of zero moves a
gradient by more. Without --quick every model of the zoo takes its turn at widths 8 and 32, with one
image and with eight; that takes about half an hour on two cores.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys

import jax
import jax.numpy as jnp
import numpy as np

from dmphn_jax.models import zoo

BOUND = 1e-12
# Name, width, (height, width), batch: strips of columns, whole tiles, and neither.
QUICK = (
    ("dmphn_1_4", 8, (32, 64), 1),
    ("dmphn_1", 8, (16, 24), 8),
    ("dmsn_2", 8, (24, 40), 3),
)


def main() -> int:
    """Prints a line per case; returns 1 if one differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", metavar="MODEL", help="names of the zoo (all)")
    parser.add_argument("--quick", action="store_true", help="a few models, narrow and small")
    args = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_enable_x64", True)
    # The networks' modules, imported after this, name the type of images and sums by it.
    jnp.float32 = jnp.float64
    cases = QUICK
    if not args.quick:
        sizes = (((32, 64), 1), ((16, 16), 8))
        names = args.models or zoo.ZOO
        cases = [(name, width, *size) for name in names for width in (8, 32) for size in sizes]
    worst = 0.0
    for name, width, size, batch in cases:
        output, gradient = differences(name, width, size, batch)
        worst = max(worst, output, gradient)
        print(
            f"{name} of width {width}, {batch} of {size[0]}x{size[1]}: outputs {output:.1e}, "
            f"gradients {gradient:.1e} of their scale",
            flush=True,
        )
    print(f"the largest: {worst:.1e}, allowed {BOUND:.0e}")
    return 0 if worst <= BOUND else 1


def differences(name: str, width: int, size: tuple[int, int], batch: int) -> tuple[float, float]:
    """Returns the largest differences of outputs and gradients, over the scale of each."""
    from dmphn_jax.models import build, convolutions_named, init_params

    config = dataclasses.replace(zoo.get(name), width=width)
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: leaf.astype("f8") + 0.1 * (leaf.ndim == 1) * rng.standard_normal(leaf.shape),
        init_params(config, 1),
    )
    image = rng.uniform(-0.5, 0.5, (batch, *size, 3))
    weights = rng.standard_normal(image.shape)
    results = []
    for layout in ("xla", "folded"):
        module = build(config, "float64", convolutions=convolutions_named(layout))

        def value(params, image, module=module):
            output = module.apply({"params": params}, image)
            total = sum(jnp.mean(out * weights * (s + 1)) for s, out in enumerate(output.stages))
            others = jax.tree.leaves((output.features, output.levels))
            return total + sum(jnp.mean(jnp.square(x)) for x in others), output

        (_, output), gradient = jax.jit(jax.value_and_grad(value, (0, 1), has_aux=True))(
            params, image
        )
        results.append((jax.device_get(output), jax.device_get(gradient)))
    (output, gradient), (other_output, other_gradient) = results
    return (
        max(map(_difference, jax.tree.leaves(output), jax.tree.leaves(other_output))),
        max(map(_difference, jax.tree.leaves(gradient), jax.tree.leaves(other_gradient))),
    )


def _difference(a: np.ndarray, b: np.ndarray) -> float:
    assert (a.shape, a.dtype) == (b.shape, np.dtype("float64"))
    return float(np.abs(a - b).max() / max(np.abs(a).max(), 1e-30))


if __name__ == "__main__":
    sys.exit(main())
