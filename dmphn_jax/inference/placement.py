"""Parameters and images on the devices that compute."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
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

    def __init__(
        self, params: Params, devices: Sequence[jax.Device], prepare: Callable[[Params], Any]
    ) -> None:
        """Takes `prepare`, which makes of parameters what programs take: `programs.prepare`."""
        self.devices = tuple(devices)
        self.mesh = data_mesh(self.devices)
        self.params: Params = jax.device_put(params, self.devices[0])
        self._prepare = prepare
        self._on: dict[jax.Device, Any] = {}
        self._turn = itertools.cycle(self.devices)

    def next_device(self) -> jax.Device:
        """Returns the device whose turn it is."""
        return next(self._turn)

    @functools.cached_property
    def _prepared(self) -> Any:
        return self._prepare(self.params)

    def params_on(self, device: jax.Device) -> Any:
        """Returns the prepared parameters on a device."""
        if device not in self._on:
            self._on[device] = jax.device_put(self._prepared, device)
        return self._on[device]

    @functools.cached_property
    def shared_params(self) -> Any:
        """The prepared parameters on every device at once."""
        return self._everywhere(self._prepared)

    @functools.cached_property
    def _plain_shared_params(self) -> Params:
        shared: Params = self._everywhere(self.params)
        return shared

    def _everywhere(self, tree: Any) -> Any:
        return jax.device_put(tree, NamedSharding(self.mesh, P()))

    def place(self, images: np.ndarray, device: jax.Device | None = None) -> tuple[Any, jax.Array]:
        """Returns prepared parameters and images (B, H, W, 3), on one device or all of a batch.

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
        """Returns plain parameters and images, all of both on every device."""
        return self._plain_shared_params, self._everywhere(images)
