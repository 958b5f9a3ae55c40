"""The project's own programs, lowered for a machine that is not there. In the planner's process."""

from __future__ import annotations

import dataclasses
import math
import types
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dmphn_jax.data.resident_feed import ResidentFeed
from dmphn_jax.inference.deblurrer import _programs
from dmphn_jax.models import build, multiply_adds, parameter_shapes, zoo
from dmphn_jax.planning import experiments
from dmphn_jax.planning.machines import Machine
from dmphn_jax.planning.request import Request
from dmphn_jax.training import settings
from dmphn_jax.training.optimizer import make_optimizer
from dmphn_jax.training.step import make_state, make_train_step

FRAME = (720, 1280)
_RESIDENT_SHARE = 0.8  # of the memory: the resident feed's own rule


@dataclasses.dataclass(frozen=True)
class Lowered:
    """A program ready to be compiled, and what its arguments are.

    Attributes:
      lowered: of JAX.
      turns: of its loop over steps; 1 where it has none.
      parameters, optimiser, average, resident: bytes of the arguments on one chip.
      model_operations: of the network's convolutions on one chip, per step or call.
      full_resolution: elements of a feature tensor of one chip's images.
      precision, layout, remat: as they were chosen.
    """

    lowered: Any
    turns: int
    parameters: int
    optimiser: int
    average: int
    resident: int
    model_operations: float
    full_resolution: int
    precision: str
    layout: str
    remat: bool


def training(request: Request, machine: Machine, mesh: Mesh, batch: int) -> Lowered:
    """Lowers the training step of an experiment for so many pairs per step over the mesh.

    The program is the one that `training.loop` runs: several steps per call, crops cut from the
    resident training set where that fits, from crops of the host feed where not.

    Raises UserError for a config that no run can have.
    """
    config = experiments.config_of(request)
    model = settings.model_of(config)
    platform = machine.chip.platform
    pairs = experiments.pairs_of(request, config)
    ema = config.ema_decay > 0
    tx, schedule = make_optimizer(config.optimizer, *experiments.steps_of(config, pairs, batch))
    turns = config.steps_per_dispatch
    resident = _resident(config, machine, pairs, mesh)
    if resident is None:
        image = (turns, batch, config.crop_size, config.crop_size, 3)
        batches: Any = (jax.ShapeDtypeStruct(image, jnp.uint8),) * 2
        crops = _given
    else:
        batches = jax.ShapeDtypeStruct((turns, batch, 3), jnp.int32)
        crops = types.MethodType(
            ResidentFeed.crops, types.SimpleNamespace(mesh=mesh, crop_size=config.crop_size)
        )
    step = make_train_step(
        build(model, config.compute_dtype, remat=config.remat),
        tx,
        schedule,
        types.SimpleNamespace(crops=crops),
        mesh,
        seed=config.seed,
        recipe=config.augment,
        loss=config.loss.name,
        levels=config.loss.levels,
        ema_decay=config.ema_decay,
        accumulate_steps=config.optimizer.accumulate_steps,
    )
    state = jax.eval_shape(lambda p: make_state(p, tx, ema=ema), parameter_shapes(model))
    arguments = (
        _placed(state, mesh, PartitionSpec()),
        _placed(resident, mesh, PartitionSpec("data")),
        _placed(batches, mesh, PartitionSpec(None, "data")),
    )
    local = batch // mesh.size
    return Lowered(
        step.trace(*arguments).lower(lowering_platforms=(platform,)),
        turns,
        _bytes(state.params),
        _bytes(state.opt_state),
        _bytes(state.ema),
        _bytes(resident) // mesh.size,
        # A backward pass costs two forward ones; a multiply-add is two operations.
        6 * local * multiply_adds(model, config.crop_size, config.crop_size),
        local * config.crop_size**2 * model.width,
        config.compute_dtype,
        request.layout,
        config.remat,
    )


def inference(request: Request, machine: Machine, mesh: Mesh, batch: int) -> Lowered:
    """Lowers the program of `Deblurrer` for so many uint8 images per call over the mesh."""
    model = zoo.get(request.model)
    rows, columns = model.multiple
    height, width = (-(-side // unit) * unit for side, unit in zip(request.size, (rows, columns)))
    params = parameter_shapes(model)
    images = jax.ShapeDtypeStruct((batch, height, width, 3), jnp.uint8)
    program = _programs(model, request.precision, model.stages, machine.chip.platform).quantised
    traced = program.trace(
        _placed(params, mesh, PartitionSpec()), _placed(images, mesh, PartitionSpec("data"))
    )
    local = batch // mesh.size
    return Lowered(
        traced.lower(lowering_platforms=(machine.chip.platform,)),
        1,
        _bytes(params),
        0,
        0,
        0,
        2 * local * multiply_adds(model, height, width),
        local * height * width * model.width,
        request.precision,
        request.layout,
        False,
    )


def _given(resident: Any, batch: Any) -> Any:
    """Crops that the host feed brings as they are."""
    return batch


def _resident(config: Any, machine: Machine, pairs: int, mesh: Mesh) -> Any:
    """Returns the shapes of the training set on the devices; None for the host feed."""
    if config.data.feed == "host":
        return None
    height, width = config.data.size if config.data.source == "synthetic" else FRAME
    shape = (mesh.size * -(-pairs // mesh.size), height, width, 3)
    each_chip = 2 * math.prod(shape) // machine.chips
    if config.data.feed == "auto" and each_chip > _RESIDENT_SHARE * machine.chip.memory:
        return None
    side = jax.ShapeDtypeStruct(shape, jnp.uint8)
    return {"blurry": side, "sharp": side}


def _placed(tree: Any, mesh: Mesh, spec: PartitionSpec) -> Any:
    sharding = NamedSharding(mesh, spec)
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree
    )


def _bytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
