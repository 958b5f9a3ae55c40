"""How much memory a device has left, and a plain line when something will not fit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dmphn_jax.errors import UserError
from dmphn_jax.runtime import device_free, host_free

if TYPE_CHECKING:
    import jax


class DoesNotFitError(UserError):
    """Something is larger than the memory it should go to."""


def gigabytes(count: int) -> str:
    """Returns a number of bytes for a person: `11.6 GB`."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} B"


def check_fits_host(needed: int, *, share: float, what: str, way_out: str) -> None:
    """Raises DoesNotFitError unless `needed` bytes are within a share of the host's free memory.

    See `check_fits` for the rest.
    """
    free = host_free()
    if free is not None and needed > share * free:
        raise DoesNotFitError(
            f"{what} need {gigabytes(needed)} of memory; {share:.0%} of the {gigabytes(free)} free "
            f"may be taken; {way_out}"
        )


def check_fits(
    needed: int,
    devices: Sequence[jax.Device],
    *,
    share: float,
    limit: int | None,
    what: str,
    way_out: str,
) -> None:
    """Raises DoesNotFitError unless `needed` bytes fit on each of this process's `devices`.

    Args:
      needed: bytes per device.
      devices: this process's JAX devices.
      share: the part of the free memory that may be taken.
      limit: bytes per device that may be taken, instead of asking the devices.
      what: the subject of the message, `the resident feed's 2103 pairs of 1280x720`.
      way_out: what the user can do, ends the message.
    """

    def refuse(have: str) -> None:
        raise DoesNotFitError(f"{what} need {gigabytes(needed)} {have}; {way_out}")

    if limit is not None:
        if needed > limit:
            refuse(f"on each device, over the limit of {gigabytes(limit)}")
        return
    on_host = [device for device in devices if device.platform == "cpu"]
    if on_host:  # CPU devices share the host's memory
        free = host_free()
        if free is not None and needed * len(on_host) > share * free:
            times = f" on each of {len(on_host)} CPU devices" if len(on_host) > 1 else ""
            refuse(f"of memory{times}; {share:.0%} of the {gigabytes(free)} free may be taken")
    for device in devices:
        free = None if device.platform == "cpu" else device_free(device)
        if free is not None and needed > share * free:
            refuse(
                f"on each device; {share:.0%} of the {gigabytes(free)} free on {device} "
                "may be taken"
            )
