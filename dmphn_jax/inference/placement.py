"""Parameters and images on the devices that compute."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from dmphn_jax.runtime import data_mesh

Params = dict[str, Any]


class Placement:
    """Where the parameters lie: on the first device, and on others once they are needed there.

    Attributes:
      devices: in order.
      mesh: of them, along the axis `data`.
      params: the parameters on the first device.
    """

    def __init__(self, params: Params, devices: Sequence[jax.Device]) -> None:
        self.devices = tuple(devices)
        self.mesh = data_mesh(self.devices)
        self.params: Params = jax.device_put(params, self.devices[0])
        self._on = {self.devices[0]: self.params}
        self._turn = itertools.cycle(self.devices)

    def next_device(self) -> jax.Device:
        """Returns the device whose turn it is."""
        return next(self._turn)

    def params_on(self, device: jax.Device) -> Params:
        """Returns the parameters on a device."""
        if device not in self._on:
            self._on[device] = jax.device_put(self.params, device)
        return self._on[device]

    @functools.cached_property
    def shared_params(self) -> Params:
        """The parameters on every device at once."""
        shared: Params = jax.device_put(self.params, NamedSharding(self.mesh, P()))
        return shared

    def place(
        self, images: np.ndarray, device: jax.Device | None = None
    ) -> tuple[Params, jax.Array]:
        """Returns parameters and images (B, H, W, 3) on one device, or on all sharing a batch.

        A single image goes to `device`, or the first. A batch that the devices do not divide is
        filled up with copies of its last image.
        """
        count = len(self.devices)
        if len(images) == 1 or count == 1:
            device = device or self.devices[0]
            return self.params_on(device), jax.device_put(images, device)
        missing = -len(images) % count
        if missing:
            images = np.concatenate([images, np.repeat(images[-1:], missing, axis=0)])
        return self.shared_params, jax.device_put(images, NamedSharding(self.mesh, P("data")))

    def place_everywhere(self, images: np.ndarray) -> tuple[Params, jax.Array]:
        """Returns parameters and images, all of both on every device."""
        return self.shared_params, jax.device_put(images, NamedSharding(self.mesh, P()))
