"""A model as StableHLO: an artefact of `jax.export` for CPUs, GPUs and TPUs."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.export

from dmphn_jax.export.options import Options, card
from dmphn_jax.export.program import blurry, program
from dmphn_jax.models import ModelConfig
from dmphn_jax.models.convolutions import XLA

PLATFORMS = ("cpu", "cuda", "tpu")


def write(
    path: Path, params: dict[str, Any], config: ModelConfig, digest: str, options: Options
) -> None:
    """Writes a model to the file `path`, one for all `PLATFORMS`.

    Its convolutions are XLA's: `jax.export` refuses calls of kernels that it does not know.
    The metadata stand, as JSON, where the format keeps the function's name.
    """
    run = program(config, options, XLA)

    def deblur(images: jax.Array) -> jax.Array:
        return run(params, images)

    exported = jax.export.export(jax.jit(deblur), platforms=PLATFORMS)(blurry(options))
    exported = dataclasses.replace(exported, fun_name=json.dumps(card(config, digest, options)))
    path.write_bytes(exported.serialize())
