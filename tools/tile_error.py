"""What a tile's border does to its pixels, by their distance from it: a table for the docs.

    python tools/tile_error.py IMAGE CHECKPOINT...

A window of the image goes through the network by itself, once with the patch grid of the whole
image (one centred on the image's cuts, one between the columns' cuts), as `Deblurrer` cuts tiles,
and once with the model's own grid, as a lone image would be cut. Each is compared with the same
pixels of the whole: the largest difference in grey levels (of 255, not rounded) of the pixels so
far and farther from a border that the image has not.
"""

from __future__ import annotations

import argparse

import jax
import numpy as np

from dmphn_jax.images import read_image
from dmphn_jax.inference import programs
from dmphn_jax.inference.deblurrer import Deblurrer
from dmphn_jax.inference.programs import Network

DISTANCES = (0, 16, 32, 48, 64, 96, 128, 160)
HEIGHT, WIDTH = 352, 512


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("image")
    parser.add_argument("checkpoints", nargs="+")
    args = parser.parse_args()
    image = read_image(args.image).pixels
    print("| model | tile | " + " | ".join(map(str, DISTANCES)) + " | PSNR inside, dB |")
    print("|---|---|" + "--:|" * (len(DISTANCES) + 1))
    for path in args.checkpoints:
        for name, window, distance in _differences(Deblurrer(path), image):
            found = [np.abs(window)[distance >= d].max(initial=0) for d in DISTANCES]
            inside = window[distance >= DISTANCES[-1]]
            psnr = 10 * np.log10(255**2 / max(np.mean(inside**2), 1e-20))
            figures = " | ".join(f"{value:.3g}" for value in found)
            print(f"| {path} | {name} | {figures} | {psnr:.1f} |", flush=True)


def _differences(deblurrer: Deblurrer, image: np.ndarray):
    """Yields (name, differences (h, w, 3) in grey levels, distances (h, w)) of three windows."""
    config = deblurrer.config
    height, width = (n // m * m for n, m in zip(image.shape, config.multiple))
    image = image[:height, :width]
    network = Network(config, deblurrer.precision, deblurrer.stages, deblurrer.devices[0].platform)

    def run(part: np.ndarray, grids) -> np.ndarray:
        ones = [np.ones(n, np.float32) for n in part.shape[:2]]
        weighted, _ = programs.tile(network, grids)(deblurrer.params, part[None], *ones)
        return 255 * np.asarray(jax.device_get(weighted)[0])

    def cut(centre: int, length: int, axis: int) -> tuple[int, ...]:
        return tuple(1 if centre * grid[axis] % length else 2 for grid in config.grids)

    whole = run(image, config.grids)
    middle = (height - HEIGHT) // 2
    for name, top, left in (
        ("on the cuts", middle, (width - WIDTH) // 2),
        ("beside a cut", middle, 64),
        ("own grid", 100, 200),
    ):
        grids = tuple(zip(cut(top + HEIGHT // 2, height, 0), cut(left + WIDTH // 2, width, 1)))
        part = np.s_[top : top + HEIGHT, left : left + WIDTH]
        result = run(image[part], config.grids if name == "own grid" else grids)
        rows = np.minimum(np.arange(HEIGHT) + 1, np.arange(HEIGHT, 0, -1)) - 1
        columns = np.minimum(np.arange(WIDTH) + 1, np.arange(WIDTH, 0, -1)) - 1
        yield name, result - whole[part], np.minimum(rows[:, None], columns[None])


if __name__ == "__main__":
    main()
