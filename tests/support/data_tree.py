"""Small trees in the datasets' layouts, made on the fly for the tests of data."""

import functools
import os
from pathlib import Path

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 72, 104


def frame(seed: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def save(path: Path, image: np.ndarray) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)
    return image


def real_frames(side: str) -> list[Path]:
    """Real GoPro frames, where the reference data is at hand."""
    default = Path(__file__).resolve().parents[3] / "shared" / "reference"
    folder = Path(os.environ.get("DMPHN_REFERENCE") or default) / "pairs" / "GOPRO_Large"
    return sorted(folder.glob(f"train/*/{side}/*.png"))


def gopro_frame(number: int, side: str, height: int, width: int) -> np.ndarray:
    """A window of a real frame where there are any, else noise."""
    real = real_frames("blur" if side == "blur_gamma" else side)
    if not real:
        return frame(1000 * number + len(side), height, width)
    window = decoded(real[number % len(real)])[360 : 360 + height, 640 : 640 + width]
    return 255 - window if side == "blur_gamma" else window


@functools.lru_cache(maxsize=8)
def decoded(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.array(image)


def gopro_tree(
    root: Path, train: int = 3, test: int = 1, height: int = HEIGHT, width: int = WIDTH
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Writes GOPRO_Large/... and returns name -> (blurry, sharp)."""
    pairs = {}
    sequences = {"train": ("GOPR0372_07_00", 47, train), "test": ("GOPR0384_11_00", 1, test)}
    for split, (sequence, first, count) in sequences.items():
        for number in range(first, first + count):
            folder = root / split / sequence
            name = f"{number:06d}.png"
            sides = [
                save(folder / side / name, gopro_frame(number, side, height, width))
                for side in ("blur", "sharp", "blur_gamma")
            ]
            pairs[f"{sequence}/{number:06d}"] = (sides[0], sides[1])
    return pairs


def video_tree(root: Path, videos: dict[str, int]) -> None:
    """Writes quantitative_datasets-shaped videos of so many frames."""
    for video, count in videos.items():
        for number in range(count):
            for k, side in enumerate(("input", "GT")):
                save(root / video / side / f"{number:05d}.jpg", frame(number + k, 16, 16))
