"""Textures of the synthetic scenes, as they come out of a camera: float32 RGB in [0, 255]."""

from __future__ import annotations

import cv2
import numpy as np

Rng = np.random.Generator

# fmt: off
WORDS = (
    "EXIT", "OPEN", "CAFE", "TAXI", "MARKET", "HOTEL", "BANK", "POLICE", "METRO", "STATION",
    "STREET", "PARK", "MUSIC", "BOOKS", "BAKERY", "Flowers", "Tickets", "Platform", "Garden",
    "Museum", "Theatre", "Coffee", "Fresh", "fruit", "No", "entry", "Keep", "left", "SALE", "one",
    "way", "please", "wait", "here", "all", "trains", "stop", "24h", "Bus", "Line", "North",
    "South", "Pharmacy", "Bridge",
)
# fmt: on
_FONTS = (
    cv2.FONT_HERSHEY_SIMPLEX,
    cv2.FONT_HERSHEY_DUPLEX,
    cv2.FONT_HERSHEY_COMPLEX,
    cv2.FONT_HERSHEY_TRIPLEX,
)


def colour(rng: Rng, value: tuple[float, float] = (0.15, 0.95)) -> np.ndarray:
    """Returns a random colour (3,), most often a muted one, of a brightness within `value`."""
    hue, strength = rng.uniform(0, 6), rng.beta(1.0, 3.6)
    wheel = np.clip(np.abs((hue + np.array([0, 4, 2])) % 6 - 3) - 1, 0, 1)
    return (255 * rng.uniform(*value) * (1 - strength + strength * wheel)).astype(np.float32)


def fractal_noise(rng: Rng, height: int, width: int, roughness: float) -> np.ndarray:
    """Returns noise at several scales, (H, W), mean about 0 and standard deviation about 1.

    `roughness` is the factor from one octave's amplitude to the next finer one's: natural images
    have about 0.5 to 0.7.
    """
    octaves = max(1, int(np.log2(max(height, width))) - 1)
    amplitude, power, total = 1.0, 0.0, None
    for octave in reversed(range(octaves)):  # each twice as fine as the one before
        size = (-(-height >> octave), -(-width >> octave))
        values = rng.standard_normal(size, dtype=np.float32)
        if total is not None:
            values *= np.float32(amplitude)
            values += cv2.resize(total, size[::-1], interpolation=cv2.INTER_CUBIC)
        total, power = values, power + amplitude**2
        amplitude *= roughness
    return total / np.float32(np.sqrt(power))


def mottled(
    rng: Rng, height: int, width: int, base: np.ndarray, contrast: float, roughness: float
) -> np.ndarray:
    """Returns a surface of one colour with noise on it: plaster, asphalt, cloud, foliage."""
    noise = 1 + np.float32(contrast) * fractal_noise(rng, height, width, roughness)
    return base * three(noise)


def _coordinates(rng: Rng, height: int, width: int, tilt: float) -> tuple[np.ndarray, np.ndarray]:
    # Lines of a picture are rarely quite parallel to its edges.
    angle, shear = rng.uniform(-tilt, tilt), rng.uniform(-0.2, 0.2)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    u = x * np.float32(np.cos(angle)) + y * np.float32(np.sin(angle))
    v = y * np.float32(np.cos(angle)) - x * np.float32(np.sin(angle))
    return u, v + np.float32(shear) * u


def grating(rng: Rng, height: int, width: int, scale: float) -> np.ndarray:
    """Returns fine stripes (fences, blinds, corduroy), some with a period that changes."""
    u, _ = _coordinates(rng, height, width, np.pi)
    period = rng.uniform(3, 14) * scale
    phase = u / np.float32(period)
    if rng.random() < 0.4:
        phase = phase * (1 + np.float32(rng.uniform(0.2, 0.8)) * u / max(height, width))
    wave = np.sin(2 * np.float32(np.pi) * phase)
    wave = np.clip(0.5 + wave * np.float32(rng.choice([0.5, 2.0, 4.0])), 0, 1)
    return between(wave, colour(rng), colour(rng))


def checker(rng: Rng, height: int, width: int, scale: float) -> np.ndarray:
    """Returns a checked surface: tiles, cloth."""
    u, v = _coordinates(rng, height, width, np.pi / 4)
    period = rng.uniform(6, 24) * scale
    odd = (np.floor(u / period) + np.floor(v / period)) % 2
    return between(odd, colour(rng), colour(rng))


def facade(rng: Rng, height: int, width: int, scale: float) -> np.ndarray:
    """Returns rows of windows, or of bricks: a grid of cells of their own brightness."""
    u, v = _coordinates(rng, height, width, 0.15)
    bricks = rng.random() < 0.4
    across = rng.uniform(8, 16) * scale if bricks else rng.uniform(10, 36) * scale
    down = across * (rng.uniform(0.35, 0.5) if bricks else rng.uniform(0.9, 1.8))
    row = np.floor(v / down)
    if bricks:
        u = u + (row % 2) * np.float32(across / 2)
    column = np.floor(u / across)
    gap = rng.uniform(0.1, 0.2) if bricks else rng.uniform(0.3, 0.5)
    inside = ((u / across - column) > gap) & ((v / down - row) > gap)
    light = rng.uniform(0.75, 1.15, 256) if bricks else rng.uniform(0.4, 1.3, 256)
    cell = (row.astype(np.int32) * 31 + column.astype(np.int32) * 17) & 255
    shade = light.astype(np.float32)[cell]
    front, frame = colour(rng), colour(rng, (0.3, 0.9))
    return cv2.merge([np.where(inside, a * shade, b) for a, b in zip(front, frame)])


def lettering(rng: Rng, height: int, width: int, scale: float) -> np.ndarray:
    """Returns lines of text on a plain ground: signs, posters, pages."""
    ground, ink = colour(rng), colour(rng)
    if abs(float(ground.mean() - ink.mean())) < 80:
        ink = np.float32(245) - ground if rng.random() < 0.5 else ink * np.float32(0.2)
    mask = np.zeros((height, width), np.uint8)
    line_height = rng.uniform(9, 44) * scale
    font, size = int(rng.choice(_FONTS)), line_height / 36
    thickness = max(1, round(size * rng.uniform(1.0, 2.4)))
    y = line_height
    while y < height + line_height:
        words = " ".join(rng.choice(WORDS, 1 + int(width / (line_height * 3))))
        x = int(rng.uniform(-line_height, line_height))
        cv2.putText(mask, words, (x, int(y)), font, size, 255, thickness, cv2.LINE_AA)
        y += 1.5 * line_height
    return between(mask * np.float32(1 / 255), ground, ink)


def plain(rng: Rng, height: int, width: int, scale: float) -> np.ndarray:
    """Returns a surface with a little or much noise on it."""
    contrast, roughness = rng.uniform(0.03, 0.3), rng.uniform(0.5, 1.0)
    return mottled(rng, height, width, colour(rng), contrast, roughness)


def surface(rng: Rng, height: int, width: int, scale: float) -> np.ndarray:
    """Returns a random texture, (H, W, 3) float32; `scale` stretches its pattern."""
    kinds = (plain, facade, lettering, grating, checker)
    kind = kinds[rng.choice(len(kinds), p=[0.36, 0.24, 0.2, 0.12, 0.08])]
    return kind(rng, height, width, scale)


def three(plane: np.ndarray) -> np.ndarray:
    """Returns a plane (H, W) as an image (H, W, 3), many times faster to compute with in numpy."""
    return cv2.merge([plane] * 3)


def between(weight: np.ndarray, zero: np.ndarray, one: np.ndarray) -> np.ndarray:
    """Returns the image (H, W, 3) that goes from colour `zero` to `one` with `weight` (H, W)."""
    weight = weight.astype(np.float32)
    return cv2.merge([a + weight * (b - a) for a, b in zip(zero, one)])
