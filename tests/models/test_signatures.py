"""The shapes and dtypes in the models' signatures hold wherever a network is traced."""

from __future__ import annotations

import subprocess
import sys

# In a process of its own: the modules must not have been imported before. Nothing is computed.
TRACE = """
from jaxtyping import TypeCheckError, install_import_hook

names = ("patches", "pixels", "blocks", "hierarchy", "stack", "vmphn", "dmsn")
with install_import_hook([f"dmphn_jax.models.{name}" for name in names], "beartype.beartype"):
    import jax
    import jax.numpy as jnp

    from dmphn_jax.models import blocks, build, pixels, zoo

photo = jax.ShapeDtypeStruct((2, 64, 128, 3), jnp.uint8)
for name in ("dmphn_1_2_4_ws", "stack2", "vmphn", "dmsn_3"):
    network = build(zoo.get(name), "bfloat16")
    images = jax.eval_shape(pixels.to_network, photo)
    params = jax.eval_shape(network.init, jax.random.key(0), images)
    output = jax.eval_shape(network.apply, params, images)
    assert output.image.shape == photo.shape
try:
    jax.eval_shape(blocks.Encoder().init, jax.random.key(0), jnp.zeros((1, 8, 8, 4)))
except TypeCheckError:
    print("checked")
"""


def test_signatures_tell_the_shapes():
    done = subprocess.run([sys.executable, "-c", TRACE], capture_output=True, text=True)
    assert done.stdout == "checked\n", done.stderr
