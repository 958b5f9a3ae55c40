"""How fast a run is, by the chip: images per second, and their share of the arithmetic bound.

That bound is the chip's peak alone. Those of memory and exchange, which a plan has beside it, need
a compiled program (`planning`). No jax.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from dmphn_jax import chips
from dmphn_jax.models.config import ModelConfig, operations

if TYPE_CHECKING:
    from jax.sharding import Mesh

# Of metrics.csv, TensorBoard and the status file; empty where the devices are no known accelerator.
PER_CHIP, SHARE = "images_per_second_per_chip", "share_of_arithmetic_bound"


@dataclasses.dataclass(frozen=True)
class Yardstick:
    """What a run's images per second are held against.

    Attributes:
      chips: that compute together.
      operations: of the network's convolutions for one crop of a step, two per multiply-add,
        forward and backward; what a program does beyond them does not count.
      peak: of a chip, operations per second in the run's compute dtype; None where not known.
    """

    chips: int
    operations: float
    peak: float | None

    def measured(self, images_per_second: float | None) -> dict[str, float]:
        """Returns the rate of a chip, and its share of the bound that the arithmetic sets."""
        if not images_per_second:
            return {}
        each = images_per_second / self.chips
        share = {SHARE: each * self.operations / self.peak} if self.peak else {}
        return {PER_CHIP: each, **share}


def yardstick(mesh: Mesh, model: ModelConfig, config: Any) -> Yardstick | None:
    """Returns that of a run of `model` on a mesh; None on CPUs, of which nothing is claimed."""
    devices = mesh.devices.flat
    if devices[0].platform == "cpu":
        return None
    count = len(devices)
    if devices[0].platform == "tpu":  # some chips are two devices
        count = len({(device.slice_index, *device.coords) for device in devices})
    chip = chips.of_kind(devices[0].device_kind)
    each = operations(model, config.crop_size, config.crop_size, training=True)
    return Yardstick(count, each, chip.peak.get(config.compute_dtype) if chip else None)


def told(fields: dict[str, Any]) -> str:
    """Returns what of it a person reads after the rate: ", 2.6 a chip, 12 % of ..."; may be ""."""
    each, share = fields.get(PER_CHIP), fields.get(SHARE)
    text = f", {each:.1f} a chip" if each else ""
    return text + (f", {100 * share:.1f} % of the arithmetic bound" if share else "")
