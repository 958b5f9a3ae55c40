"""What of an image fits into a device's memory."""

from __future__ import annotations

import jax

from dmphn_jax.runtime import device_free, host_free

# What a program may take of the memory that is free. Memory is in pieces, and on a CPU, which
# computes an image while the one before is at its end, there are two, beside pictures in decoding
# and encoding and what the kernels take for themselves.
_SHARE = 0.8
_SHARE_OF_HOST = 0.4


def allowed(device: jax.Device, sharing: int = 1) -> int | None:
    """Returns the bytes a program may take on a device now; None where nobody tells.

    `sharing` devices work at once; those of a CPU have one memory.
    """
    if device.platform != "cpu":
        free = device_free(device)
        return None if free is None else int(_SHARE * free)
    free = host_free()
    return None if free is None else int(_SHARE_OF_HOST * free / sharing)
