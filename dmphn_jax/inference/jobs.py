"""Which file becomes which: the inputs of a command laid out as jobs before any work starts."""

from __future__ import annotations

import collections
import os
import stat
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

from dmphn_jax.errors import UserError
from dmphn_jax.files import shown
from dmphn_jax.images.core import EXTENSIONS, WRITABLE, format_of
from dmphn_jax.video.encoding import film_name, is_film


class Job(NamedTuple):
    """One file to make."""

    source: str
    output: str
    exists: bool = False  # the output is there and is to stay
    problem: str | None = None  # why it cannot be done, where the plan shows it already
    film: bool = False  # of a film, or (from a folder of pictures) into one
    frames: str | None = None  # extension of a film's frames, if `output` is a folder of these


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
        return Plan([_occupied(job, overwrite) for job in _checked([job], overwrite)], ignored)
    one_file = _is_file_output(inputs, output, format)
    for name in inputs:
        if not os.path.isdir(name):
            jobs.append(Job(name, output) if one_file else _job(name, output, format))
            continue
        found = 0
        for source, problem in _walk(name, os.path.realpath(output), extensions, ignored):
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
    return Plan([_occupied(job, overwrite) for job in _checked(jobs, overwrite)], ignored)


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
    extension = _extension(output)
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


_NO_IMAGE = "a folder, not an image"
_KINDS = 1000  # extensions that are told apart


def _extension(path: str) -> str:
    return os.path.splitext(path)[1].lower()


class _Folder:
    """A folder on the way down: its entries not yet visited, and whether it held an image."""

    def __init__(
        self, path: str, extensions: Collection[str], ignored: collections.Counter[str]
    ) -> None:
        """Lists it; raises OSError if that cannot be done."""
        self.path, self.found = path, False
        entries: list[tuple[str, bool]] = []
        with os.scandir(path) as listing:  # of a million other files none is kept
            for entry in listing:
                extension = _extension(entry.name)
                if entry.name.startswith("."):
                    continue
                if _is_folder(entry):
                    entries.append((entry.name, True))
                elif extension in extensions:
                    entries.append((entry.name, False))
                else:
                    kind = extension or "no extension"
                    ignored[kind if kind in ignored or len(ignored) < _KINDS else "others"] += 1
        self.entries = iter(sorted(entries))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself; reading it will tell
        return False


def _walk(
    root: str, output: str, extensions: Collection[str], ignored: collections.Counter[str]
) -> Iterator[tuple[str, str | None]]:
    """Yields (path, problem) of the images below `root`, and of folders that cannot be read."""
    seen: set[str] = set()
    stack: list[_Folder] = []

    def enter(path: str) -> str | None:
        """Goes down into a folder; returns why that cannot be done."""
        real = os.path.realpath(path)
        if stack and real == output:  # results of an earlier run
            return None
        if real in seen:  # a link back up
            return _NO_IMAGE if _extension(path) in extensions else None
        seen.add(real)
        try:
            stack.append(_Folder(path, extensions, ignored))
        except OSError as error:
            return f"folder cannot be read: {error.strerror}"
        return None

    problem = enter(root)
    if problem:
        yield root, problem
    while stack:
        folder = stack[-1]
        name, is_folder = next(folder.entries, (None, False))
        if name is None:
            stack.pop()
            if stack and not folder.found and _extension(folder.path) in extensions:
                folder.found = True
                yield folder.path, _NO_IMAGE
            if stack:
                stack[-1].found |= folder.found
            continue
        path = os.path.join(folder.path, name)
        if is_folder:
            problem = enter(path)
            if problem:
                folder.found = True
                yield path, problem
        else:
            folder.found = True
            yield path, None


def _checked(jobs: list[Job], overwrite: bool) -> list[Job]:
    """Drops jobs given twice and marks those whose output is another's, or an input.

    Raises UserError if that leaves nothing to do.
    """
    reals = {job.source: os.path.realpath(job.source) for job in jobs}
    sources = {reals[job.source] for job in jobs if not job.problem}
    rivals: dict[str, dict[str, Job]] = {}  # output -> real source -> job
    checked: list[Job] = []
    for job in jobs:
        group = rivals.setdefault(os.path.normcase(os.path.abspath(job.output)), {})
        if job.problem:
            checked.append(job)
        elif reals[job.source] not in group:
            group[reals[job.source]] = job
            checked.append(job)
    wrong: list[Job] = []
    for index, job in enumerate(checked):
        if job.problem:
            continue
        group = rivals[os.path.normcase(os.path.abspath(job.output))]
        problem = _rivalry(job, list(group.values()))
        target = os.path.realpath(job.output)
        if not problem and target in sources and target != reals[job.source]:
            problem = f"would be written over another input, {shown(target)}; give another --output"
        elif not problem and target in sources and not overwrite:
            problem = "would be written over itself; give another --output, or --overwrite"
        if problem:
            checked[index] = job._replace(problem=problem)
            wrong.append(checked[index])
    if wrong and all(job.problem for job in checked):
        raise UserError(f"{shown(wrong[0].source)} {wrong[0].problem}")
    return checked


def _rivalry(job: Job, group: list[Job]) -> str | None:
    """Tells why a job of several with one output cannot be done; None if it can.

    The one that keeps its name has the better right to it.
    """

    def keeps_name(job: Job) -> bool:
        return os.path.basename(job.source) == os.path.basename(job.output)

    others = [other for other in group if other is not job]
    better = [other for other in others if keeps_name(other)]
    if not others or (keeps_name(job) and not better):
        return None
    return (
        f"would be written to {shown(job.output)}, which {shown((better or others)[0].source)} "
        "claims too; give them separate runs, or no --format"
    )


def _occupied(job: Job, overwrite: bool) -> Job:
    """Tells by what is at the output's place whether a job is to be done, skipped, or cannot be."""
    if job.problem:
        return job
    name = shown(job.output)
    try:
        mode = os.stat(job.output).st_mode
    except OSError:  # nothing there, or writing will tell
        if os.path.islink(job.output) and not overwrite:
            return job._replace(
                problem=f"its output {name} is a link to nothing; --overwrite replaces it"
            )
        return job
    if job.frames:  # a folder of single frames, of which those that are missing will be made
        if stat.S_ISDIR(mode):
            return job
        return job._replace(problem=f"its output {name} is a file; give another --output")
    if stat.S_ISDIR(mode):
        return job._replace(problem=f"its output {name} is a folder; give another --output")
    if overwrite:
        return job
    if stat.S_ISREG(mode):
        return job._replace(exists=True)
    return job._replace(
        problem=f"its output {name} is there and no regular file; --overwrite writes into it"
    )
