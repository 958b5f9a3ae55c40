"""What of an image fits into a device's memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax

from dmphn_jax.inference import programs, tiles
from dmphn_jax.inference.programs import Network
from dmphn_jax.runtime import device_free, host_free

# What a program may take of the memory that is free. Memory is in pieces, and on a CPU, which
# computes an image while the one before is at its end, there are two, beside pictures in decoding
# and encoding and what the kernels take for themselves.
_SHARE = 0.8
_SHARE_OF_HOST = 0.4
_LEAST_TILE = 256  # pixels; where not even that fits, the error tells


def allowed(device: jax.Device, sharing: int = 1) -> int | None:
    """Returns the bytes a program may take on a device now; None where nobody tells.

    `sharing` devices work at once; those of a CPU have one memory.
    """
    if device.platform != "cpu":
        free = device_free(device)
        return None if free is None else int(_SHARE * free)
    free = host_free()
    return None if free is None else int(_SHARE_OF_HOST * free / sharing)


def tile_that_fits(
    network: Network,
    overlap: int,
    params: dict[str, Any],
    program: jax.stages.Wrapped,
    arguments: Sequence[Any],
) -> int | None:
    """Returns the size of tiles for images that do not fit whole; None for those that do.

    By what the compiler has planned for the program of the whole, and for those of tiles.

    Args:
      network: which.
      overlap: of neighbouring tiles, in pixels.
      params: the parameters as the programs of tiles take them, on one device.
      program: of the whole.
      arguments: its, on the devices: the parameters, the images (B, H, W, 3), and more.
    """
    images = arguments[1]
    devices = sorted(images.devices(), key=lambda device: device.id)
    allowed_bytes = allowed(devices[0], len(devices))
    if allowed_bytes is None:
        return None
    needed = programs.bytes_needed(program, *arguments)
    if needed <= allowed_bytes:
        return None
    _, height, width, _ = images.sharding.shard_shape(images.shape)
    side = int((len(images) * height * width * allowed_bytes / needed) ** 0.5)
    while side > _LEAST_TILE:
        layout = tiles.lay_out(network.config, network.stages, (height, width), side, overlap)
        row, column = layout.rows[0], layout.columns[0]
        run = programs.tile(network, layout.grids(row, column))
        window = jax.ShapeDtypeStruct((1, *layout.size, 3), images.dtype)
        weights = row.weights, column.weights
        if programs.bytes_needed(run, params, window, *weights) <= allowed_bytes:
            break
        side = side * 3 // 4
    return max(side, _LEAST_TILE)
