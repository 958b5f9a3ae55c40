"""The flags of `dmphn deblur`."""

from __future__ import annotations

import argparse

from dmphn_jax.commands.arguments import count, percentage, pixels, positive
from dmphn_jax.commands.film_flags import add_film_flags
from dmphn_jax.commands.network import add_network_flags
from dmphn_jax.errors import UserError, nearest
from dmphn_jax.video.encoding import EXTENSIONS as FILM_EXTENSIONS
from dmphn_jax.video.encoding import IN_FOLDERS, WRITABLE

FORMATS = {
    "png": "PNG",
    "jpg": "JPEG",
    "jpeg": "JPEG",
    "webp": "WEBP",
    "bmp": "BMP",
    "tif": "TIFF",
    "tiff": "TIFF",
}
_EPILOG = f"""\
Reads PNG, JPEG, WebP, BMP, TIFF and still GIF: gray, RGB, palette, 1-bit, CMYK, with and without
alpha, 8 and 16 bits; turned upright as EXIF says. Alpha is kept as it is, gray stays gray, 16 bits
stay 16 in PNG and TIFF; ICC profile, EXIF, XMP and resolution are carried over where the output's
format holds them. Animations and multi-page files are refused: split them into frames first.

Films: {" ".join(WRITABLE)}, which are written too, and
{" ".join(name for name in FILM_EXTENSIONS if name not in WRITABLE)}.
Sound, subtitles, frame times, colour tags and chapters are kept; rotation is applied. A film
becomes a film (--output out.mp4, or a folder) or, with --format, a folder of frames; a folder of
frames becomes a film with --output out.mp4. An interrupted film goes on where it stopped.

A file that fails is told at the end, on one line, and the others are done; so is one whose output
is another's too (a.gif beside a.png) or a folder's name. Run again after an interrupt: finished
outputs are skipped. Several processes, on one machine or many, share the files of a folder where a
launcher (srun, mpirun, a TPU slice's) or --process tells them that they are several.

Exit status: 0 all done, 1 some files failed, 2 wrong use, 74 all done but the summary could not be
printed; of several processes 75 after SIGTERM: the others, or the same command again, do the rest.
"""


def parser() -> argparse.ArgumentParser:
    """Returns the command line of `dmphn deblur`."""
    result = argparse.ArgumentParser(
        prog="dmphn deblur",
        description="Deblur images, films, and folders of them.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = result.add_argument
    add("inputs", nargs="+", metavar="INPUT", help="image, film, or folder (all below it)")
    add_network_flags(result)
    add(
        "-o",
        "--output",
        required=True,
        metavar="OUT",
        help="folder, which keeps the inputs' tree; or a file, for a single image or film",
    )
    depth = result.add_mutually_exclusive_group()
    depth.add_argument(
        "--stages", type=count, metavar="N", help="run a stack's first N stages only: faster"
    )
    depth.add_argument(
        "--budget-ms",
        type=positive,
        metavar="T",
        help="run as many stages as take T milliseconds per image, measured here for every size",
    )
    ensemble = result.add_mutually_exclusive_group()
    ensemble.add_argument(
        "--ensemble",
        action="store_true",
        help="mean over the 8 flips and quarter turns: a little better, eight times the time",
    )
    ensemble.add_argument(
        "--shift-ensemble",
        action="store_true",
        help="mean over places of the patch grid: no seams at patch borders, two or four times "
        "the time",
    )
    add(
        "--format",
        choices=FORMATS,
        metavar="F",
        help=f"of the outputs: {', '.join(FORMATS)} (default: as the input's name); a film's "
        "frames come out one by one",
    )
    add(
        "--quality",
        type=percentage,
        default=95,
        metavar="Q",
        help="of JPEG and WebP, 1 to 100; 100 makes WebP lossless (default 95)",
    )
    add("--overwrite", action="store_true", help="replace outputs that exist (default: skip them)")
    add("-n", "--dry-run", action="store_true", help="say what would be done, and do nothing")
    add(
        "--max-pixels",
        type=pixels,
        default=100_000_000,
        metavar="N",
        help="refuse larger images, by the size they declare (default 100M)",
    )
    add(
        "--extensions",
        metavar="LIST",
        help="take only these of a folder's files, as png,jpg (default: every kind that is read)",
    )
    add(
        "--split-rows",
        action="store_true",
        help="split every image by rows over all devices (default: each device its own images)",
    )
    add(
        "--process",
        metavar="I/N",
        help="this is process I (from 0) of N that share the work, by files in OUT (default: as "
        "the launcher tells)",
    )
    add("--workers", type=count, metavar="N", help="threads to decode, and to encode, with")
    add("--timings", action="store_true", help="say at the end where the seconds went")
    add("-q", "--quiet", action="store_true", help="no progress bar and no summary")
    add_film_flags(result)
    return result


def extensions(text: str | None) -> tuple[str, ...]:
    """Reads `--extensions`."""
    from dmphn_jax.images.core import EXTENSIONS

    known = (*EXTENSIONS, *FILM_EXTENSIONS)
    if text is None:
        return (*EXTENSIONS, *IN_FOLDERS)
    names = ["." + part.strip().lower().lstrip(".") for part in text.split(",") if part.strip(" .")]
    for name in names:
        if name not in known:
            raise UserError(
                f"--extensions {name[1:]}: not read here{nearest(name, known)}; "
                f"known: {', '.join(each[1:] for each in known)}"
            )
    if not names:
        raise UserError("--extensions: no extension given, as png,jpg")
    return tuple(names)
