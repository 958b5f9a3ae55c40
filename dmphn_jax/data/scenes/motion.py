"""Smooth random motion of the camera and of the objects during one exposure."""

from __future__ import annotations

import numpy as np

from dmphn_jax.data.scenes.textures import Rng


class Path:
    """A trajectory over times in [-1, 1]; at time 0 it is the identity.

    Translation, rotation and zoom are each a drift, an acceleration and a tremor of a random
    frequency, as of a hand that pans and shakes.

    Args:
      rng: draws the path.
      extent: length of the translation from first to last step, in pixels, about.
      reach: half the size of what moves, in pixels: rotation and zoom move its rim.
      spin: how far rotation and zoom move the rim, as a share of `extent`.
    """

    def __init__(self, rng: Rng, extent: float, reach: float, spin: float):
        direction = rng.uniform(0, 2 * np.pi)
        along = extent / 2 * np.array([np.cos(direction), np.sin(direction)])
        across = along[::-1] * (-1, 1)
        self._drift = along
        self._bend = across * rng.normal(0, 0.35) + along * rng.normal(0, 0.2)
        self._tremor = across * rng.normal(0, 0.3) + along * rng.normal(0, 0.2)
        self._frequency = rng.uniform(2.0, 6.0)
        self._phase = rng.uniform(0, 2 * np.pi)
        self._turn = rng.normal(0, 0.5, 2) * spin * extent / 2 / reach
        self._zoom = rng.normal(0, 0.5, 2) * spin * extent / 2 / reach

    def at(self, time: float, centre: np.ndarray) -> np.ndarray:
        """Returns the affine map (2, 3) from positions at time 0 to those at `time`.

        It turns and zooms about `centre`; positions are (x, y) in pixels.
        """
        tremor = np.sin(self._frequency * time + self._phase) - np.sin(self._phase)
        move = self._drift * time + self._bend * time**2 + self._tremor * tremor
        powers = np.array([time, time**2])
        angle, scale = self._turn @ powers, np.exp(self._zoom @ powers)
        linear = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        return np.concatenate([linear, (centre + move - linear @ centre)[:, None]], axis=1)


def compose(outer: np.ndarray, inner: np.ndarray) -> np.ndarray:
    """Returns the affine map (2, 3) that applies `inner`, then `outer`."""
    linear = outer[:, :2] @ inner[:, :2]
    return np.concatenate([linear, outer[:, :2] @ inner[:, 2:] + outer[:, 2:]], axis=1)


def shift(x: float, y: float) -> np.ndarray:
    """Returns the affine map (2, 3) of a translation."""
    return np.array([[1.0, 0.0, x], [0.0, 1.0, y]])
