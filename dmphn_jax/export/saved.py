"""A model as TensorFlow's SavedModel, in TensorFlow's own operations: no XLA, no JAX in it.

Not by jax2tf: what it writes holds a StableHLO program, which a TensorFlow reads only if it is
as new as the JAX that wrote it (docs/export.md).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tensorflow as tf

from dmphn_jax.export.options import Options, card
from dmphn_jax.export.program import blurry, program
from dmphn_jax.export.tf_rules import Rules
from dmphn_jax.export.walk import walk
from dmphn_jax.models import ModelConfig
from dmphn_jax.models.convolutions import DilatedConvolutions

SIGNATURE = "serving_default"
CARD = "assets.extra/dmphn.json"  # the folder is TensorFlow's, for what others add


def write(
    path: Path, params: dict[str, Any], config: ModelConfig, digest: str, options: Options
) -> None:
    """Writes a model to the folder `path`, which is there: signature blurry -> sharp."""
    spec = blurry(options)
    traced = jax.make_jaxpr(program(config, options, DilatedConvolutions()))(params, spec)
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(params)]
    module = tf.Module()
    sizes = [size if isinstance(size, int) else None for size in spec.shape]

    @tf.function(  # type: ignore[untyped-decorator]
        autograph=False,
        input_signature=[tf.TensorSpec(sizes, tf.dtypes.as_dtype(spec.dtype), name="blurry")],
    )
    def deblur(images: tf.Tensor) -> dict[str, tf.Tensor]:
        known = dict(zip(map(str, spec.shape), tf.unstack(tf.shape(images)), strict=True))
        rules = Rules({k: v for k, v in known.items() if k.isalpha()})
        (sharp,) = walk(traced, [*leaves, images], rules.by_name(), np.asarray, "saved")
        return {"sharp": tf.ensure_shape(sharp, sizes)}

    signatures = {SIGNATURE: deblur.get_concrete_function()}
    tf.saved_model.save(module, str(path), signatures=signatures)
    extra = path / CARD
    extra.parent.mkdir(exist_ok=True)
    extra.write_text(json.dumps(card(config, digest, options), indent=1) + "\n")
