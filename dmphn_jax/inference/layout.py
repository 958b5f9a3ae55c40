"""Which file becomes which: the inputs of a command laid out as jobs before any work starts."""

from __future__ import annotations

import collections
import os
from collections.abc import Collection, Sequence

from dmphn_jax.errors import UserError
from dmphn_jax.files import shown
from dmphn_jax.images.core import EXTENSIONS, WRITABLE, format_of
from dmphn_jax.inference.folders import extension_of, walk
from dmphn_jax.inference.jobs import Job, Plan, checked, occupied
from dmphn_jax.video.encoding import film_name, is_film


def plan(
    inputs: Sequence[str],
    output: str,
    *,
    format: str | None = None,
    extensions: Collection[str] = tuple(EXTENSIONS),
    overwrite: bool = False,
) -> Plan:
    """Lays out the jobs of images, films, and folders of them.

    A folder's tree is kept below `output`; hidden files and folders are passed over, and so is
    `output` itself where it lies in an input folder. Names keep their extension, unless `format`
    asks for another, or it is one that is only read (GIF: PNG is written).

    An entry that cannot be done is a job with a `problem`, and the others go on: a folder that
    cannot be read, an output over an input, two sources for one output (of which the one that
    keeps its name is done, if there is one), an output's name that a folder has. About a kilobyte
    of memory is taken per image, none for other files.

    A film becomes a film, or with a `format` a folder of its frames. A folder becomes one film
    where `output` names one.

    Args:
      inputs: files and folders.
      output: a folder; a file if the one input is a file and this has an image's or a film's
        extension.
      format: "PNG", ... of every output; by each input's name if None.
      extensions: of the images in folders, lower case, with the dot.
      overwrite: replace outputs that exist; else their jobs are marked `exists`.

    Raises UserError before anything is written: a missing input, no image found, or a use so
    wrong that nothing would be done, as every output over its own input.
    """
    for name in inputs:
        if not os.path.lexists(name):
            raise UserError(f"{shown(name)}: no such file or folder")
    ignored: collections.Counter[str] = collections.Counter()
    jobs: list[Job] = []
    if _is_film_output(inputs, output, format):
        job = Job(inputs[0], output, film=True)
        return Plan([occupied(job, overwrite) for job in checked([job], overwrite)], ignored)
    one_file = _is_file_output(inputs, output, format)
    for name in inputs:
        if not os.path.isdir(name):
            jobs.append(Job(name, output) if one_file else _job(name, output, format))
            continue
        found = 0
        for source, problem in walk(name, os.path.realpath(output), extensions, ignored):
            relative = os.path.relpath(source, name)
            folder = os.path.dirname(relative)
            job = _job(source, os.path.join(output, folder), format)
            jobs.append(job._replace(problem=problem))
            found += 1
        if not found:
            raise UserError(
                f"{shown(name)}: no images or films in this folder "
                f"({', '.join(sorted(extensions))})"
            )
    return Plan([occupied(job, overwrite) for job in checked(jobs, overwrite)], ignored)


def _is_film_output(inputs: Sequence[str], output: str, format: str | None) -> bool:
    """Tells whether `output` names a film; raises UserError where none can come of the inputs."""
    if not is_film(output) or os.path.isdir(output):
        return False
    name = shown(output)
    if len(inputs) > 1:
        raise UserError(f"--output {name}: a film; several inputs need a folder")
    if not os.path.isdir(inputs[0]) and not is_film(inputs[0]):
        raise UserError(f"--output {name}: a film, which takes a film or a folder of its frames")
    if format:
        raise UserError(f"--format {format.lower()} and --output {name} disagree")
    return True


def _job(source: str, folder: str, format: str | None) -> Job:
    """Returns the job of one file, with its output in `folder`."""
    base = os.path.basename(os.path.normpath(source))
    if not is_film(source):
        return Job(source, os.path.join(folder, _renamed(source, format)))
    if not format:
        return Job(source, os.path.join(folder, film_name(base)), film=True)
    stem = os.path.splitext(base)[0]
    return Job(source, os.path.join(folder, stem), film=True, frames=WRITABLE[format])


def _is_file_output(inputs: Sequence[str], output: str, format: str | None) -> bool:
    """Tells whether `output` names a file; raises UserError where it cannot be what it must."""
    if os.path.isdir(output) or output.endswith(("/", os.sep)):
        return False
    single = len(inputs) == 1 and not os.path.isdir(inputs[0])
    if not single:
        if os.path.lexists(output):
            raise UserError(f"--output {shown(output)}: a file; several images need a folder")
        return False
    kind = format_of(output)
    extension = extension_of(output)
    if kind is None and extension not in _FOREIGN:
        if os.path.lexists(output):
            raise UserError(
                f"--output {shown(output)}: a file without an image's extension; name it .png"
            )
        return False
    if kind not in WRITABLE:
        raise UserError(
            f"--output {shown(output)}: {extension} is not written; "
            f"one of {', '.join(WRITABLE.values())}"
        )
    if is_film(inputs[0]):
        raise UserError(
            f"--output {shown(output)}: a picture; name a film, as .mp4, or a folder for its "
            "frames, with --format"
        )
    if format not in (None, kind):
        raise UserError(f"--format {format.lower()} and --output {shown(output)} disagree")
    return True


# Extensions people give images that are not written here: not to be taken for folders' names.
_FOREIGN = {".heic", ".heif", ".avif", ".jp2", ".jxl", ".exr", ".hdr", ".tga", ".ppm", ".pgm"} | {
    *(".pnm", ".dng", ".cr2", ".nef", ".arw", ".psd", ".svg", ".pdf"),
}


def _renamed(source: str, format: str | None) -> str:
    """Returns the output's base name."""
    base = os.path.basename(os.path.normpath(source))
    kind = format_of(base)
    wanted = format or (kind if kind in WRITABLE else "PNG")
    return base if wanted == kind else os.path.splitext(base)[0] + WRITABLE[wanted]
