"""`dmphn visualize`: what every stage (Fig. 8) and every level (Fig. 7) of a model puts out."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from dmphn_jax import storage
from dmphn_jax.commands import arguments
from dmphn_jax.errors import UserError
from dmphn_jax.models import PRECISIONS

if TYPE_CHECKING:
    import PIL.Image

    from dmphn_jax.models.output import Output

_LEAST = 11  # SSIM's window

DESCRIPTION = """\
Draw a model's intermediate images for one photo, as one picture.

The first row is the paper's Fig. 8: the blurry image, the output of every stage, and the sharp
image if there is one; with it, PSNR and SSIM (MATLAB 3-D) stand above each panel. The rows below
are its Fig. 7, one per stage: the outputs of the levels, from the finest to the coarsest, whose
output is the stage's. In the first stage levels but the coarsest put out corrections to their
input, for which mid-grey is none, and the finest level's is the sparsest; from the second stage
on, level 2 carries the first stage's output. VMPHN's levels are those on its way back up."""

_MARGIN = 8
_LINE = 20  # of a caption


def main(argv: list[str]) -> int:
    """Draws the figure."""
    parser = argparse.ArgumentParser(
        prog="dmphn visualize",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("checkpoint", metavar="CHECKPOINT", help="checkpoint folder, or a released name")
    add("image", metavar="IMAGE", help="blurry image")
    add("--sharp", metavar="IMAGE", help="its sharp image, for PSNR and SSIM")
    add("--output", required=True, metavar="FILE", help="image file to write, such as a .png")
    add("--figure", choices=("both", "stages", "levels"), default="both", help="rows to draw")
    add("--stages", type=arguments.count, metavar="K", help="the first K stages of a stack only")
    add("--precision", default="float32", choices=PRECISIONS, help="of the network")
    add("--crop", metavar="X,Y,W,H", help="draw this part of the images only, in pixels")
    add("--panel-width", type=int, default=480, metavar="PX", help="widest panel (480)")
    args = parser.parse_args(argv)
    if args.panel_width < 16:
        raise UserError(f"--panel-width {args.panel_width}: at least 16 pixels")

    from dmphn_jax.images import WRITABLE, Image, format_of, read_rgb, write_image

    storage.local_only("--output", args.output)
    if format_of(args.output) not in WRITABLE:
        raise UserError(f"--output {args.output}: name it {', '.join(WRITABLE.values())}")
    blurry = read_rgb(args.image)
    sharp = read_rgb(args.sharp) if args.sharp else None
    if sharp is not None and sharp.shape != blurry.shape:
        raise UserError(
            f"{args.sharp}: is {_size(sharp)}, but {args.image} is {_size(blurry)}; "
            "the sharp image must have the blurry one's size"
        )
    if sharp is not None and min(sharp.shape[:2]) < _LEAST:
        raise UserError(f"{args.sharp}: is {_size(sharp)}; SSIM needs {_LEAST} x {_LEAST} pixels")
    crop = _crop(args.crop, blurry)

    from dmphn_jax.inference.deblurrer import Deblurrer
    from dmphn_jax.runtime import cache_compilations

    cache_compilations()
    deblurrer = Deblurrer(args.checkpoint, stages=args.stages, precision=args.precision)
    output = deblurrer.output(blurry)
    rows = []
    if args.figure != "levels":
        rows.append(stage_panels(output, blurry, sharp))
    if args.figure != "stages":
        rows += level_panels(output, deblurrer.config.family)
    picture = draw(rows, crop, args.panel_width)
    write_image(args.output, Image(np.asarray(picture)))
    for caption, _ in rows[0] if args.figure != "levels" else []:
        print(caption)
    print(f"{args.output}: {picture.width} x {picture.height}")
    return 0


Panel = tuple[str, np.ndarray]


def stage_panels(
    output: Output, blurry: np.ndarray, sharp: np.ndarray | None = None
) -> list[Panel]:
    """Returns Fig. 8's panels: (caption, uint8 (H, W, 3)) of the input, every stage, the sharp.

    Args:
      output: what `Deblurrer.output` returned: images (H, W, 3) on [0, 1].
      blurry: uint8 (H, W, 3).
      sharp: likewise; with it captions carry the scores.
    """
    panels = [("blurry", blurry)]
    single = len(output.stages) == 1
    for number, image in enumerate(output.stages, 1):
        panels.append(("output" if single else f"stage {number}", _eight_bit(image)))
    if sharp is None:
        return panels
    from dmphn_jax.evaluation.metrics import scores

    scored = []
    for caption, image in panels:
        of = scores(image, sharp)
        scored.append((f"{caption}\n{of['psnr']:.2f} dB / {of['ssim_matlab']:.4f}", image))
    return [*scored, ("sharp\nPSNR / SSIM (MATLAB 3-D)", sharp)]


def level_panels(output: Output, family: str = "dmphn") -> list[list[Panel]]:
    """Returns Fig. 7's panels, a row per stage, from the finest level to the coarsest.

    DMSN works the other way: from its coarsest scale to full resolution.
    """
    rows = []
    for number, levels in enumerate(output.levels, 1):
        stage = f"stage {number}, " if len(output.levels) > 1 else ""
        part = "scale" if family == "dmsn" else "level"
        row = [
            (f"{stage}{part} {level}", _eight_bit(image)) for level, image in enumerate(levels, 1)
        ]
        rows.append(row[::-1])
    return rows


def draw(
    rows: Sequence[Sequence[Panel]],
    crop: tuple[float, float, float, float] = (0, 0, 1, 1),
    panel_width: int = 480,
) -> PIL.Image.Image:
    """Returns rows of captioned panels as one PIL image.

    Args:
      rows: panels, uint8 (H, W, 3), of one aspect.
      crop: (left, top, right, bottom) of what is drawn of each, as parts of its size.
      panel_width: panels wider than this many pixels are reduced to it.
    """
    from PIL import Image, ImageDraw, ImageFont

    def panel(image: np.ndarray) -> Image.Image:
        H, W = image.shape[:2]
        left, top, right, bottom = crop
        x, y = int(left * W), int(top * H)
        box = (x, y, max(x + 1, round(right * W)), max(y + 1, round(bottom * H)))
        return Image.fromarray(image).crop(box)

    images = [[panel(image) for _, image in row] for row in rows]
    full = max((image for row in images for image in row), key=lambda image: image.width)
    width = min(panel_width, max(full.width, 160))
    height = max(1, round(full.height * width / full.width))
    captions = [_LINE * max(caption.count("\n") + 1 for caption, _ in row) for row in rows]
    columns = max(map(len, rows))
    total = _MARGIN + sum(caption + height + _MARGIN for caption in captions)
    picture = Image.new("RGB", (columns * (width + _MARGIN) + _MARGIN, total), "white")
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(15)
    y = _MARGIN
    for i, row in enumerate(rows):
        for j, (caption, _) in enumerate(row):
            x = _MARGIN + j * (width + _MARGIN)
            pen.multiline_text((x, y), caption, "black", font, spacing=2)
            image = images[i][j]
            # Small images (coarse scales, crops) are enlarged without inventing pixels.
            how = Image.Resampling.LANCZOS if image.width > width else Image.Resampling.NEAREST
            picture.paste(image.resize((width, height), how), (x, y + captions[i]))
        y += captions[i] + height + _MARGIN
    return picture


def _crop(text: str | None, image: np.ndarray) -> tuple[float, float, float, float]:
    """Returns a crop given as X,Y,W,H in pixels as parts of the image's size."""
    if text is None:
        return 0, 0, 1, 1
    H, W = image.shape[:2]
    try:
        x, y, w, h = (int(part) for part in text.split(","))
    except ValueError:
        raise UserError(f"--crop {text}: four whole numbers needed, X,Y,W,H") from None
    if min(x, y) < 0 or min(w, h) < 1 or x + w > W or y + h > H:
        raise UserError(f"--crop {text}: outside the image of {_size(image)}")
    return x / W, y / H, (x + w) / W, (y + h) / H


def _size(image: np.ndarray) -> str:
    return f"{image.shape[1]} x {image.shape[0]}"


def _eight_bit(image: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
