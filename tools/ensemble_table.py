"""What ensembles are worth on pairs of files: PSNR, and the jump across patch borders.

    python tools/ensemble_table.py CHECKPOINT... --pairs BLURRY SHARP [BLURRY SHARP ...]

The jump is the mean absolute difference of the two pixels on either side of the patch grid's
cuts, less that of their neighbours one and two pixels away, in grey levels: 0 where nothing is to
be seen. The sharp image's own is told too.
"""

from __future__ import annotations

import argparse

import numpy as np

from dmphn_jax.images import read_rgb
from dmphn_jax.inference.deblurrer import Deblurrer
from dmphn_jax.inference.ensembles import SelfEnsemble, ShiftEnsemble
from dmphn_jax.models import ModelConfig


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoints", nargs="+")
    parser.add_argument("--pairs", nargs="+", required=True)
    parser.add_argument("--crop", type=int, nargs=2, metavar=("H", "W"), help="from the middle")
    args = parser.parse_args()
    pairs = [
        [_cropped(read_rgb(name), args.crop) for name in names]
        for names in zip(args.pairs[::2], args.pairs[1::2])
    ]
    print("| model | passes | PSNR, dB | jump | the sharp image's |")
    print("|---|---|--:|--:|--:|")
    for path in args.checkpoints:
        deblurrer = Deblurrer(path)
        methods = {
            "one": deblurrer,
            "8 poses": SelfEnsemble(deblurrer),
            "4 shifts": ShiftEnsemble(deblurrer, deblurrer.config),
        }
        for name, method in methods.items():
            found = []
            for blurry, sharp in pairs:
                result = method.submit(blurry[None]).result()[0]
                error = np.mean((result.astype(float) - sharp) ** 2)
                jumps = [jump(image, deblurrer.config) for image in (result, sharp)]
                found.append([10 * np.log10(255**2 / error), *jumps])
            psnr, own, real = np.mean(found, axis=0)
            print(f"| {path} | {name} | {psnr:.3f} | {own:.3f} | {real:.3f} |", flush=True)


def jump(image: np.ndarray, config: ModelConfig) -> float:
    """Returns the mean jump across the finest grid's cuts, of an image the grid divides."""
    jumps = []
    for axis, patches in enumerate(np.max(config.grids, axis=0)):
        x = np.moveaxis(image, axis, 0).astype(float)
        for cut in range(1, patches):
            border = len(x) * cut // patches
            steps = np.abs(np.diff(x[border - 3 : border + 3], axis=0))  # the third is the cut's
            jumps.append(np.mean(steps[2]) - np.mean(steps[[0, 1, 3, 4]]))
    return float(np.mean(jumps))


def _cropped(image: np.ndarray, size: tuple[int, int] | None) -> np.ndarray:
    if not size:
        return image
    top, left = (image.shape[0] - size[0]) // 2, (image.shape[1] - size[1]) // 2
    return image[top : top + size[0], left : left + size[1]]


if __name__ == "__main__":
    main()
