"""The project's own programs, lowered for a machine that is not there. In the planner's process."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dmphn_jax.data.resident_feed import MEMORY_SHARE, cut_crops
from dmphn_jax.inference.programs import Network, by_rows, prepare, shared, whole
from dmphn_jax.models import (
    LAYOUTS,
    build,
    convolutions_for,
    convolutions_named,
    operations,
    parameter_shapes,
    zoo,
)
from dmphn_jax.models.convolutions import Convolutions
from dmphn_jax.planning import experiments
from dmphn_jax.planning.machines import Machine
from dmphn_jax.planning.request import Request
from dmphn_jax.training import settings
from dmphn_jax.training.optimizer import make_optimizer
from dmphn_jax.training.state import make_state
from dmphn_jax.training.step import StepOptions, make_train_step

FRAME = (720, 1280)


@dataclasses.dataclass(frozen=True)
class Lowered:
    """A program ready to be compiled, and what its arguments are.

    Attributes:
      lowered: of JAX.
      turns: of its loop over steps; 1 where it has none.
      parameters, optimiser, average, resident: bytes of the arguments on one device.
      model_operations: of the network's convolutions on one device, per step or call.
      full_resolution: elements of a feature tensor of one device's images.
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
    pairs = experiments.pairs_of(request, config)
    turns, side = config.steps_per_dispatch, config.crop_size
    resident = _resident(config, machine, pairs, mesh)
    if resident is None:
        image = jax.ShapeDtypeStruct((turns, batch, side, side, 3), jnp.uint8)
        batches: Any = (image, image)
        crops: Any = _given
    else:
        batches = jax.ShapeDtypeStruct((turns, batch, 3), jnp.int32)
        crops = functools.partial(cut_crops, mesh=mesh, crop_size=side)
    tx, schedule = make_optimizer(config.optimizer, *experiments.steps_of(config, pairs, batch))
    layout, convolutions = _formulation(config.layout, machine)
    module = build(model, config.compute_dtype, remat=config.remat, convolutions=convolutions)
    step = make_train_step(module, tx, schedule, crops, mesh, StepOptions.of(config))
    ema = config.ema_decay > 0
    state = jax.eval_shape(lambda p: make_state(p, tx, ema=ema), parameter_shapes(model))
    traced = step.trace(
        _placed(state, mesh, PartitionSpec()),
        _placed(resident, mesh, PartitionSpec("data")),
        _placed(batches, mesh, PartitionSpec(None, "data")),
    )
    local = batch // mesh.size
    return Lowered(
        lowered=traced.lower(lowering_platforms=(machine.chip.platform,)),
        turns=turns,
        parameters=_bytes(state.params),
        optimiser=_bytes(state.opt_state),
        average=_bytes(state.ema),
        resident=_bytes(resident) // mesh.size,
        model_operations=local * operations(model, side, side, training=True),
        full_resolution=local * side**2 * model.width,
        precision=config.compute_dtype,
        layout=layout,
        remat=config.remat,
    )


def inference(request: Request, machine: Machine, mesh: Mesh, batch: int) -> Lowered:
    """Lowers the program of `Deblurrer` for so many uint8 images per call over the mesh."""
    model = zoo.get(request.model)
    height, width = (-(-side // unit) * unit for side, unit in zip(request.size, model.multiple))
    platform = machine.chip.platform
    layout, _ = _formulation(request.layout or "auto", machine, inference=request.precision)
    network = Network(model, request.precision, model.stages, platform, layout)
    images_lie = PartitionSpec("data")
    if request.split_rows:
        program, images_lie = by_rows(network, mesh), PartitionSpec()
        layout = "xla"  # whatever the platform's own is: XLA splits its convolutions alone
        local = batch / mesh.size
    else:
        program = whole(network).quantised if mesh.size == 1 else shared(network, mesh)
        local = batch // mesh.size
    params = parameter_shapes(model)
    if not request.split_rows:
        params = jax.eval_shape(prepare(network), params)
    images = jax.ShapeDtypeStruct((batch, height, width, 3), jnp.uint8)
    traced = program.trace(
        _placed(params, mesh, PartitionSpec()), _placed(images, mesh, images_lie)
    )
    return Lowered(
        lowered=traced.lower(lowering_platforms=(platform,)),
        turns=1,
        parameters=_bytes(params),
        optimiser=0,
        average=0,
        resident=0,
        model_operations=local * operations(model, height, width),
        full_resolution=int(local * height * width * model.width),
        precision=request.precision,
        layout=layout,
        remat=False,
    )


def _formulation(
    layout: str, machine: Machine, inference: str | None = None
) -> tuple[str, Convolutions]:
    """Returns the layout's name and the formulation: what is asked for, or the platform's own."""
    chosen = convolutions_for(machine.chip.platform, layout, inference=inference)
    return next(name for name in LAYOUTS if convolutions_named(name) == chosen), chosen


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
    if config.data.feed == "auto" and each_chip > MEMORY_SHARE * machine.chip.memory:
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
