"""Renders a synthetic scene: several steps of one exposure, averaged in linear light."""

from __future__ import annotations

import cv2
import numpy as np

from dmphn_jax.data.scenes import layers
from dmphn_jax.data.scenes.motion import Path, compose, shift
from dmphn_jax.data.scenes.textures import Rng

STEPS = (7, 13)  # frames averaged for one blurry image, as in GoPro


class Scene:
    """A background and objects with their paths; everything is drawn from `rng` at once.

    Args:
      rng: draws the scene.
      height: of the image in pixels.
      width: of the image in pixels.
      motion: factor on the length of all motion.
    """

    def __init__(self, rng: Rng, height: int, width: int, motion: float = 1.0):
        self.height, self.width = height, width
        side = min(height, width)
        # Patterns and motion grow with the image, but less than it: more of the scene is seen.
        scale = float(np.clip((side / 256) ** 0.5, 0.6, 3.0))
        self.steps = int(rng.integers(STEPS[0], STEPS[1] + 1))
        self.middle = self.steps // 2
        # Speeds in pixels per step; the exposure's length is speed times steps.
        speed = motion * scale * np.exp(rng.uniform(np.log(0.3), np.log(1.7)))
        extent = speed * (self.steps - 1)
        self.margin = int(min(np.ceil(extent) + 4, side // 2))
        self.centre = np.array([width, height]) / 2 + self.margin
        self.camera = Path(rng, extent, max(height, width) / 2, spin=rng.uniform(0.1, 1.0))
        painted = layers.background(rng, height + 2 * self.margin, width + 2 * self.margin, scale)
        optics = rng.uniform(0.4, 0.7)  # a lens never draws single pixels
        self.canvas = layers.to_linear(cv2.GaussianBlur(painted, (3, 3), optics))
        self.objects = [
            self._object(rng, side, scale, extent, motion) for _ in range(rng.integers(1, 6))
        ]

    def _object(
        self, rng: Rng, side: int, scale: float, extent: float, motion: float
    ) -> tuple[np.ndarray, np.ndarray, Path]:
        size = max(16, int(side * rng.uniform(0.12, 0.45)))
        image = cv2.GaussianBlur(layers.sprite(rng, size, scale), (3, 3), 0.5)
        # The middle step shows the sprite pixel by pixel, hence whole numbers.
        place = np.floor(rng.uniform(-0.3, 0.9, 2) * (self.width, self.height)) + self.margin
        own = extent * rng.uniform(0, 1.2) + rng.uniform(0, 2) * scale * motion
        return image, place, Path(rng, own, size / 2, spin=rng.uniform(0.1, 1.0))

    def step(self, index: int) -> np.ndarray:
        """Returns the light (H, W, 3), float32 in [0, 1], at one step of the exposure."""
        m, height, width = self.margin, self.height, self.width
        if index == self.middle:
            time, camera = 0.0, shift(-m, -m)
            frame = self.canvas[m : m + height, m : m + width].copy()
        else:
            time = 2 * (index - self.middle) / (self.steps - 1)
            camera = compose(shift(-m, -m), self.camera.at(time, self.centre))
            frame = _warp(self.canvas, camera, width, height, cv2.BORDER_REFLECT_101)
        for image, place, path in self.objects:
            middle = np.array([len(image), len(image)]) / 2
            own = compose(shift(*place), path.at(time, middle))
            self._draw(frame, image, compose(camera, own))
        return frame

    def _draw(self, frame: np.ndarray, image: np.ndarray, move: np.ndarray) -> None:
        """Composites an object over `frame` within the box that it covers."""
        size = len(image)
        corners = move[:, :2] @ np.array([[0, size, 0, size], [0, 0, size, size]]) + move[:, 2:]
        left, top = np.maximum(np.floor(corners.min(1)), 0).astype(int)
        right, bottom = np.minimum(np.ceil(corners.max(1)) + 1, (self.width, self.height)).astype(
            int
        )
        if right - left < 2 or bottom - top < 2:
            return
        move = compose(shift(-left, -top), move)
        drawn = _warp(image, move, right - left, bottom - top, cv2.BORDER_CONSTANT)
        part = frame[top:bottom, left:right]
        # cv2 splits the channels several times faster than numpy broadcasts over them.
        cover = cv2.cvtColor(cv2.extractChannel(drawn, 3), cv2.COLOR_GRAY2RGB)
        part -= part * cover
        part += cv2.cvtColor(drawn, cv2.COLOR_RGBA2RGB)

    def render(self, rng: Rng, noise: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
        """Returns (blurry, sharp), uint8 (H, W, 3) RGB.

        Args:
          rng: draws the noise.
          noise: standard deviation of each step's sensor noise in grey levels; averaging the
            steps leaves 1/sqrt(steps) of it in the blurry image.
        """
        total = np.zeros((self.height, self.width, 3), np.float32)
        for index in range(self.steps):
            frame = self.step(index)
            total += frame
            if index == self.middle:
                sharp = frame
        blurry = layers.to_stored(total / np.float32(self.steps))
        sharp = layers.to_stored(sharp)
        if noise > 0:
            own, others = (rng.standard_normal(sharp.shape, dtype=np.float32) for _ in range(2))
            count = self.steps
            sharp = sharp + np.float32(noise) * own
            blurry = blurry + np.float32(noise / count) * (
                own + np.float32(count - 1) ** 0.5 * others
            )
        return _rounded(blurry), _rounded(sharp)


def _warp(image: np.ndarray, move: np.ndarray, width: int, height: int, border: int) -> np.ndarray:
    return cv2.warpAffine(image, move, (width, height), flags=cv2.INTER_LINEAR, borderMode=border)


def _rounded(stored: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(stored), 0, 255).astype(np.uint8)
