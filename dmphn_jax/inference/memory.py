"""What of an image fits into a device's memory."""

from __future__ import annotations

import jax

from dmphn_jax.runtime import device_free, host_free

# What a program may take of the memory that is free. Memory is in pieces, and on a CPU, which
# computes an image while the one before is at its end, there are two, beside pictures in decoding
# and encoding and what the kernels take for themselves.
_SHARE = {"cpu": 0.4}
_SHARE_OF_OTHERS = 0.8


def allowed(device: jax.Device) -> int | None:
    """Returns the bytes a program may take on a device now; None where nobody tells."""
    free = host_free() if device.platform == "cpu" else device_free(device)
    return None if free is None else int(free * _SHARE.get(device.platform, _SHARE_OF_OTHERS))
