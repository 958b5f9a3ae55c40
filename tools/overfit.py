"""Overfits one batch of 2 crops with the paper's networks at full width; the loss falls tenfold.

    python tools/overfit.py [MODEL ...]          # dmphn_1_2_4 stack2 vmphn

The batch is two synthetic scenes of 64 x 64, the loss the paper's, the optimiser Adam. Exit status
0 if every model's loss has fallen to a tenth of the first step's.
"""

from __future__ import annotations

import argparse
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dmphn_jax.data.synthetic import SyntheticScenes
from dmphn_jax.models import build, convolutions_for, init_params, zoo
from dmphn_jax.training.losses import training_loss


def main() -> int:
    """Runs the models one after the other."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=["dmphn_1_2_4", "stack2", "vmphn"])
    parser.add_argument("--size", type=int, default=64, help="side of the crops")
    parser.add_argument("--steps", type=int, default=300, help="at most")
    parser.add_argument("--learning-rate", type=float, default=5e-4)
    args = parser.parse_args()
    scenes = SyntheticScenes(size=(args.size, args.size), count=2, seed=0)
    blurry, sharp = (
        jnp.asarray(np.stack([getattr(scenes[i], side) for i in range(2)]), jnp.float32) / 255 - 0.5
        for side in ("blurry", "sharp")
    )
    failed = 0
    for name in args.models:
        config = zoo.get(name)
        module = build(config, convolutions=convolutions_for(jax.default_backend()))
        params = init_params(config)
        tx = optax.adam(args.learning_rate)

        @jax.jit
        def step(params, opt_state, module=module, tx=tx):
            def loss(params):
                return training_loss(module.apply({"params": params}, blurry), sharp)

            value, gradient = jax.value_and_grad(loss)(params)
            updates, opt_state = tx.update(gradient, opt_state)
            return optax.apply_updates(params, updates), opt_state, value

        opt_state, first, begun = tx.init(params), None, time.perf_counter()
        for number in range(1, args.steps + 1):
            params, opt_state, value = step(params, opt_state)
            value = float(value)
            first = first or value
            if number % 10 == 0 or value * 10 <= first:
                print(
                    f"\r{name}: step {number}  loss {value:.6f}  {first / value:.1f} times less",
                    end="",
                    flush=True,
                )
            if value * 10 <= first:
                break
        good = value * 10 <= first
        failed += not good
        print(
            f"\n{name}: {first:.5f} -> {value:.5f} in {number} steps, "
            f"{time.perf_counter() - begun:.0f} s: {'fell tenfold' if good else 'DID NOT FALL'}"
        )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
