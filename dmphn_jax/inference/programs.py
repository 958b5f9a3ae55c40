"""The compiled programs that run a network over images."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dmphn_jax.errors import out_of_memory
from dmphn_jax.models import ModelConfig, build, convolutions_for
from dmphn_jax.models.buckets import BucketConvolutions
from dmphn_jax.models.conv import PREPARED
from dmphn_jax.models.convolutions import Convolutions, DilatedConvolutions
from dmphn_jax.models.output import Output
from dmphn_jax.models.patches import Grid
from dmphn_jax.models.pixels import from_network, to_network
from dmphn_jax.runtime import compiler_options


class Network(NamedTuple):
    """What a process compiles programs for; new parameters recompile nothing.

    Attributes:
      config: the model.
      precision: of the computation, one of `models.PRECISIONS`.
      stages: how many of a stack's stages run.
      platform: of the devices, as JAX names it.
      layout: of `models.LAYOUTS`, or "auto": the platform's fastest.
    """

    config: ModelConfig
    precision: str
    stages: int
    platform: str
    layout: str = "auto"


class Prepared(NamedTuple):
    """Parameters for one network's programs, which take a plain parameter tree as well.

    Attributes:
      params: those that are used as they are, float32; of most networks none.
      ready: what the network's formulation has made of the others: `Convolutions.prepare`.
    """

    params: dict[str, Any]
    ready: dict[str, Any]


class Programs(NamedTuple):
    """Compiled on first use, each taking (params, images (B, H, W, 3) uint8 or uint16)."""

    raw: jax.stages.Wrapped  # -> Output
    quantised: jax.stages.Wrapped  # -> images like the input's, whether each is finite: (B,) bool


@functools.cache
def whole(network: Network) -> Programs:
    """Returns the programs for whole images."""
    apply = _applied(network)

    def raw(params: dict[str, Any], images: jax.Array) -> Output:
        return apply(params, to_network(images))

    return Programs(_jit(network, raw), _jit(network, _quantised(network)))


@functools.cache
def prepare(network: Network) -> Callable[[dict[str, Any]], Prepared | dict[str, Any]]:
    """Returns the program that turns a parameter tree into what the others take.

    What a formulation makes of kernels is then made once, not for every image; where it makes
    nothing of them, that is the tree itself. The results are the same.
    """
    convolutions = _convolutions(network)
    if not convolutions.prepares:
        return lambda params: params
    module = build(network.config, network.precision, convolutions=convolutions)

    def made(params: dict[str, Any]) -> Prepared:
        # The image is computed too, and dropped by the compiler.
        _, written = module.apply(
            {"params": params},
            jnp.zeros((1, *network.config.multiple, 3)),
            stages=network.stages,
            mutable=[PREPARED],
        )
        ready: dict[str, Any] = written[PREPARED]
        return Prepared(_unprepared(params, ready), ready)

    return jax.jit(made)


def _unprepared(params: dict[str, Any], ready: dict[str, Any]) -> dict[str, Any]:
    """Returns the parameters of modules that have nothing in the other tree."""
    if "ready" in ready:
        return {}
    return {
        name: _unprepared(value, ready.get(name, {})) if isinstance(value, dict) else value
        for name, value in params.items()
    }


def _variables(params: dict[str, Any] | Prepared) -> dict[str, Any]:
    if isinstance(params, Prepared):
        return {"params": params.params, PREPARED: params.ready}
    return {"params": params}


@functools.cache
def shared(network: Network, mesh: Mesh) -> jax.stages.Wrapped:
    """Returns `Programs.quantised` for a batch that lies along the mesh's axis `data`.

    Each device runs the program of its own images: nothing is exchanged, and a formulation sees
    how many images it really computes.
    """
    local = PartitionSpec("data")
    program = jax.shard_map(
        _quantised(network),
        mesh=mesh,
        in_specs=(PartitionSpec(), local),
        out_specs=local,
        check_vma=False,
    )
    return _jit(network, program)


@functools.cache
def bucket(network: Network) -> jax.stages.Wrapped:
    """Returns the program for images that fill the top left of a larger array.

    It takes (params, arrays (B, H, W, 3) uint8 or uint16, the images' (height, width) int32) and
    returns what `Programs.quantised` does; pixels outside of the images are of no meaning. DMSN
    has none: its resizing knows no border within an array.
    """
    convolutions = _convolutions(network)

    def quantised(
        params: dict[str, Any], images: jax.Array, size: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        height, width = images.shape[1:3]
        filling = BucketConvolutions(convolutions, (height, width), (size[0], size[1]))
        module = build(network.config, network.precision, convolutions=filling)
        output: Any = module.apply(_variables(params), to_network(images), stages=network.stages)
        rows, columns = jnp.arange(height) < size[0], jnp.arange(width) < size[1]
        image = jnp.where((rows[:, None] & columns)[..., None], output.image, 0)
        return from_network(image, images.dtype), _finite(image)

    return _jit(network, quantised)


@functools.cache
def by_rows(network: Network, mesh: Mesh) -> jax.stages.Wrapped:
    """Returns `Programs.quantised` with every array split by rows over the mesh's devices.

    Parameters and images come whole to every device. XLA exchanges the rows that convolutions
    need of their neighbours. The convolutions are its own, which it knows how to split.
    """
    rows = NamedSharding(mesh, PartitionSpec(None, "data"))
    module = build(network.config, network.precision, convolutions=DilatedConvolutions())

    def quantised(params: dict[str, Any], images: jax.Array) -> tuple[jax.Array, jax.Array]:
        split = jax.lax.with_sharding_constraint(to_network(images), rows)
        output: Any = module.apply({"params": params}, split, stages=network.stages)
        image = jax.lax.with_sharding_constraint(output.image, rows)
        return from_network(image, images.dtype), _finite(image)

    return _jit(network, quantised)


@functools.cache
def tile(network: Network, grids: tuple[Grid, ...]) -> jax.stages.Wrapped:
    """Returns the program for tiles cut into `grids`.

    It takes (params, images (B, h, w, 3) uint8 or uint16, weights of rows (h,) and columns (w,))
    and returns the weighted images, float32 (B, h, w, 3) on [0, 1] times weight, and whether each
    is finite, (B,) bool.
    """
    apply = _applied(network, grids=None if network.config.family == "dmsn" else grids)

    def weighted(
        params: dict[str, Any], images: jax.Array, rows: jax.Array, columns: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        image = apply(params, to_network(images)).image
        return (image + 0.5) * rows[:, None, None] * columns[:, None], _finite(image)

    return _jit(network, weighted)


def bytes_needed(program: jax.stages.Wrapped, *arguments: Any) -> float:
    """Returns what a program takes to run beside its arguments, as its compiler has planned it.

    0 where the compiler does not tell; infinity where it gives up, as a TPU's does with a program
    that its whole memory would not hold. The program is compiled, as its first run would do.
    """
    try:
        plan = program.lower(*arguments).compile().memory_analysis()
    except jax.errors.JaxRuntimeError as error:
        if not out_of_memory(error):
            raise
        return math.inf
    return 0 if plan is None else plan.temp_size_in_bytes + plan.output_size_in_bytes


def _quantised(network: Network) -> Any:
    apply = _applied(network)

    def quantised(params: dict[str, Any], images: jax.Array) -> tuple[jax.Array, jax.Array]:
        image = apply(params, to_network(images)).image
        return from_network(image, images.dtype), _finite(image)

    return quantised


def _applied(network: Network, **options: Any) -> Any:
    convolutions = _convolutions(network)
    module = build(network.config, network.precision, convolutions=convolutions, **options)

    def apply(params: dict[str, Any], images: jax.Array) -> Output:
        output: Any = module.apply(_variables(params), images, stages=network.stages)
        return output

    return apply


def _convolutions(network: Network) -> Convolutions:
    return convolutions_for(network.platform, network.layout, inference=network.precision)


def _finite(images: jax.Array) -> jax.Array:
    return jnp.all(jnp.isfinite(images), axis=(1, 2, 3))


def _jit(network: Network, function: Any) -> jax.stages.Wrapped:
    return jax.jit(function, compiler_options=compiler_options(network.platform))
