"""Which file becomes which: the inputs of a command laid out as jobs before any work starts."""

from __future__ import annotations

import collections
import os
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

from dmphn_jax.errors import UserError
from dmphn_jax.files import shown
from dmphn_jax.images.core import EXTENSIONS, WRITABLE, format_of


class Job(NamedTuple):
    """One file to make."""

    source: str
    output: str
    exists: bool = False  # the output is there and is to stay
    problem: str | None = None  # why the source cannot be read, where the folder shows it already


class Plan(NamedTuple):
    """All of them, in the order of the inputs, each folder's by name."""

    jobs: list[Job]
    ignored: collections.Counter[str]  # extension -> files of input folders passed over


def plan(
    inputs: Sequence[str],
    output: str,
    *,
    format: str | None = None,
    extensions: Collection[str] = tuple(EXTENSIONS),
    overwrite: bool = False,
) -> Plan:
    """Lays out the jobs of image files and folders.

    A folder's tree is kept below `output`; hidden files and folders are passed over, and so is
    `output` itself where it lies in an input folder. Names keep their extension, unless `format`
    asks for another, or it is one that is only read (GIF: PNG is written).

    Args:
      inputs: files and folders.
      output: a folder; a file if the one input is a file and this has an image's extension.
      format: "PNG", ... of every output; by each input's name if None.
      extensions: of the images in folders, lower case, with the dot.
      overwrite: replace outputs that exist; else their jobs are marked `exists`.

    Raises UserError before anything is written: a missing input, no image found, two sources for
    one output, an output over its own input (unless `overwrite`) or over another's.
    """
    for name in inputs:
        if not os.path.lexists(name):
            raise UserError(f"{shown(name)}: no such file or folder")
    ignored: collections.Counter[str] = collections.Counter()
    one_file = _is_file_output(inputs, output, format)
    jobs: list[Job] = []
    for name in inputs:
        if not os.path.isdir(name):
            target = output if one_file else os.path.join(output, _renamed(name, format))
            jobs.append(Job(name, target))
            continue
        found = 0
        for source, problem in _walk(name, os.path.realpath(output), extensions, ignored):
            relative = os.path.relpath(source, name)
            folder = os.path.dirname(relative)
            jobs.append(
                Job(
                    source,
                    os.path.join(output, folder, _renamed(source, format)),
                    problem=problem,
                )
            )
            found += 1
        if not found:
            raise UserError(
                f"{shown(name)}: no images in this folder ({', '.join(sorted(extensions))})"
            )
    jobs = _checked(jobs, overwrite)
    if not overwrite:
        jobs = [job._replace(exists=os.path.lexists(job.output)) for job in jobs]
    return Plan(jobs, ignored)


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
    extension = os.path.splitext(output)[1].lower()
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
    if format not in (None, kind):
        raise UserError(f"--format {format.lower()} and --output {shown(output)} disagree")
    return True


# Extensions people give images that are not written here: not to be taken for folders' names.
_FOREIGN = {".heic", ".heif", ".avif", ".jp2", ".jxl", ".exr", ".hdr", ".tga", ".ppm", ".pgm"} | {
    *(".pnm", ".dng", ".cr2", ".nef", ".arw", ".psd", ".svg", ".pdf", ".mp4", ".mov", ".avi"),
}


def _renamed(source: str, format: str | None) -> str:
    """Returns the output's base name."""
    base = os.path.basename(os.path.normpath(source))
    kind = format_of(base)
    wanted = format or (kind if kind in WRITABLE else "PNG")
    return base if wanted == kind else os.path.splitext(base)[0] + WRITABLE[wanted]


def _walk(
    root: str, output: str, extensions: Collection[str], ignored: collections.Counter[str]
) -> Iterator[tuple[str, str | None]]:
    """Yields (path, problem) of the images below `root`."""
    seen: set[str] = set()

    def visit(folder: str) -> Iterator[tuple[str, str | None]]:
        real = os.path.realpath(folder)
        if real in seen:  # a link back up
            return
        seen.add(real)
        try:
            with os.scandir(folder) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except OSError as error:
            yield folder, f"folder cannot be read: {error.strerror}"
            return
        for entry in entries:
            extension = os.path.splitext(entry.name)[1].lower()
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                if os.path.realpath(entry.path) == output:  # results of an earlier run
                    continue
                empty = True
                for item in visit(entry.path):
                    empty = False
                    yield item
                if empty and extension in extensions:
                    yield entry.path, "a folder, not an image"
            elif extension in extensions:
                yield entry.path, None
            else:
                ignored[extension or "no extension"] += 1

    return visit(root)


def _checked(jobs: list[Job], overwrite: bool) -> list[Job]:
    """Drops jobs given twice; raises UserError for outputs that clash with another file."""
    by_output: dict[str, Job] = {}
    for job in jobs:
        key = os.path.normcase(os.path.abspath(job.output))
        other = by_output.setdefault(key, job)
        if os.path.realpath(other.source) != os.path.realpath(job.source):
            raise UserError(
                f"{shown(other.source)} and {shown(job.source)} would both be written to "
                f"{shown(job.output)}; give them separate runs, or no --format"
            )
    kept = list(by_output.values())
    sources = {os.path.realpath(job.source) for job in kept}
    for job in kept:
        target = os.path.realpath(job.output)
        if target not in sources:
            continue
        if target != os.path.realpath(job.source):
            raise UserError(
                f"{shown(job.source)} would be written over another input, {shown(job.output)}; "
                "give another --output"
            )
        if not overwrite:
            raise UserError(
                f"{shown(job.source)} would be written over itself; give another --output, "
                "or --overwrite"
            )
    return kept
