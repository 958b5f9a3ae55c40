"""What a synthetic scene consists of: a background, and objects cut out with soft edges."""

from __future__ import annotations

import cv2
import numpy as np

from dmphn_jax.data.scenes import textures
from dmphn_jax.data.scenes.textures import Rng

GAMMA = np.float32(2.2)  # the camera's response, GoPro's in Nah et al.
_LINEAR = ((np.arange(256) / 255) ** 2.2).astype(np.float32)


def to_linear(stored: np.ndarray) -> np.ndarray:
    """Turns stored values, float in [0, 255], into light, float32 in [0, 1]."""
    return _LINEAR[np.clip(stored + np.float32(0.5), 0, 255).astype(np.uint8)]


def to_stored(light: np.ndarray) -> np.ndarray:
    """Turns light, float32 in [0, 1], into stored values, float32 in [0, 255]."""
    return cv2.pow(np.clip(light, 0, 1), float(1 / GAMMA)) * np.float32(255)


def background(rng: Rng, height: int, width: int, scale: float) -> np.ndarray:
    """Paints a whole scene, (H, W, 3) float32 in [0, 255].

    A lit ground of noise, on it several textured areas, then thin things (wires, poles, lamps,
    writing). `scale` is the size of the patterns: 1 suits images of 256x256.
    """
    image = _ground(rng, height, width)
    for _ in range(rng.integers(3, 9)):
        _area(rng, image, scale)
    for _ in range(rng.integers(2, 12)):
        _detail(rng, image, scale)
    # Light falls unevenly on everything.
    shade = cv2.resize(
        rng.uniform(0.72, 1.2, (3, 3)).astype(np.float32),
        (width, height),
        interpolation=cv2.INTER_CUBIC,
    )
    return image * textures.three(shade)


def _ground(rng: Rng, height: int, width: int) -> np.ndarray:
    first, second = textures.colour(rng, (0.3, 1.0)), textures.colour(rng, (0.2, 0.9))
    angle = rng.uniform(0, 2 * np.pi)
    x = np.linspace(-0.5, 0.5, width, dtype=np.float32) * np.float32(np.cos(angle))
    y = np.linspace(-0.5, 0.5, height, dtype=np.float32) * np.float32(np.sin(angle))
    ramp = np.clip(0.5 + x[None, :] + y[:, None], 0, 1)
    base = textures.between(ramp, first, second)
    return textures.mottled(
        rng, height, width, base, rng.uniform(0.05, 0.25), rng.uniform(0.5, 0.9)
    )


def _area(rng: Rng, image: np.ndarray, scale: float) -> None:
    """Paints a textured polygon: a wall, a road, a poster, a hedge."""
    height, width = image.shape[:2]
    h, w = (int(n * rng.uniform(0.2, 0.75)) + 2 for n in (height, width))
    top, left = int(rng.uniform(-h / 3, height - h / 2)), int(rng.uniform(-w / 3, width - w / 2))
    top, left = max(top, 0), max(left, 0)
    h, w = min(h, height - top), min(w, width - left)
    texture = textures.surface(rng, h, w, scale)
    alpha = textures.three(_outline(rng, h, w, margin=0.25))
    part = image[top : top + h, left : left + w]
    part += alpha * (texture - part)


def _detail(rng: Rng, image: np.ndarray, scale: float) -> None:
    """Paints a wire, a pole, a lamp or a word."""
    height, width = image.shape[:2]
    ink = tuple(float(c) for c in textures.colour(rng, (0.0, 1.0)))
    x, y = rng.uniform(0, width), rng.uniform(0, height)
    kind = rng.choice(4)
    # cv2 smooths edges of 8-bit images only, so draw on a mask of the touched part.
    mask = np.zeros((height, width), np.uint8)
    if kind == 0:
        end = (int(x + rng.normal(0, width / 2)), int(y + rng.normal(0, height / 6)))
        cv2.line(mask, (int(x), int(y)), end, 255, int(rng.integers(1, 4)), cv2.LINE_AA)
    elif kind == 1:
        end = (int(x + rng.normal(0, width / 20)), int(y + rng.uniform(0.2, 0.8) * height))
        thickness = int(rng.uniform(2, 9) * scale) + 1
        cv2.line(mask, (int(x), int(y)), end, 255, thickness, cv2.LINE_AA)
    elif kind == 2:
        radius = int(rng.uniform(1.5, 12) * scale)
        thickness = -1 if rng.random() < 0.7 else 2
        cv2.circle(mask, (int(x), int(y)), radius, 255, thickness, cv2.LINE_AA)
    else:
        word = str(rng.choice(textures.WORDS))
        size = rng.uniform(0.3, 1.6) * scale
        thickness = max(1, round(2 * size))
        place = (int(x - width / 6), int(y))
        cv2.putText(mask, word, place, cv2.FONT_HERSHEY_DUPLEX, size, 255, thickness, cv2.LINE_AA)
    left, top, w, h = cv2.boundingRect(mask)
    if not w:
        return  # drawn beyond the picture
    part = image[top : top + h, left : left + w]
    alpha = textures.three(mask[top : top + h, left : left + w] * np.float32(1 / 255))
    part += alpha * (np.array(ink, np.float32) - part)


def _outline(rng: Rng, height: int, width: int, margin: float) -> np.ndarray:
    """Returns the soft mask (H, W) of a random quadrangle, polygon or ellipse that fills it."""
    mask = np.zeros((height, width), np.uint8)
    kind = rng.choice(3, p=[0.5, 0.3, 0.2])
    if kind == 0:
        corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) + rng.uniform(-margin, margin, (4, 2))
        points = np.clip(corners, 0, 1) * (width - 1, height - 1)
    else:
        count = int(rng.integers(5, 12)) if kind == 1 else 40
        angle = np.sort(rng.uniform(0, 2 * np.pi, count))
        radius = rng.uniform(0.55, 1, count) if kind == 1 else np.ones(count)
        points = np.stack([np.cos(angle), np.sin(angle)], 1) * radius[:, None] * 0.5 + 0.5
        points *= (width - 1, height - 1)
    cv2.fillPoly(mask, [np.rint(points).astype(np.int32)], 255, cv2.LINE_AA)
    return mask * np.float32(1 / 255)


def sprite(rng: Rng, size: int, scale: float) -> np.ndarray:
    """Paints an object, (size, size, 4) float32: light times coverage, and coverage in [0, 1]."""
    pad = 2  # a clear rim, so that a moved edge stays soft
    inner = size - 2 * pad
    h, w = (max(4, int(inner * rng.uniform(0.5, 1.0))) for _ in range(2))
    texture = textures.surface(rng, h, w, scale)
    texture = texture * np.linspace(*rng.uniform(0.7, 1.2, 2), w, dtype=np.float32)[None, :, None]
    alpha = _outline(rng, h, w, margin=0.15)
    out = np.zeros((size, size, 4), np.float32)
    top, left = (size - h) // 2, (size - w) // 2
    out[top : top + h, left : left + w, :3] = to_linear(texture) * textures.three(alpha)
    out[top : top + h, left : left + w, 3] = alpha
    return out
