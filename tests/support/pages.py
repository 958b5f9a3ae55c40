"""Reads a page of documentation as its reader would: which commands, files and names it mentions.

`faults(text, folder)` says what of them does not exist. Commands are parsed by the parsers they
have and not run.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib
import importlib.util
import io
import re
import runpy
import shlex
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

from dmphn_jax import cli
from dmphn_jax.errors import UserError
from dmphn_jax.training import settings
from dmphn_jax.training.experiments import start_from

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = "configs|docs|dmphn_jax|tfds_gopro|tests|tools|launch|requirements"
FIELDS = settings.names(start_from("configs/base.py").to_dict())
SECTIONS = {name.rpartition(".")[0] for name in FIELDS} - {""}


def faults(text: str, folder: Path = ROOT) -> list[str]:
    """Returns a line for each thing that a page names and the project does not have.

    Args:
      text: Markdown.
      folder: where the page lies, from which its links go out.
    """
    blocks, prose = _split(text)
    spans = [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose)]
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    found = [_command(words) for line in lines for words in _commands(line)]
    found += [_mention(words) for span in spans for words in _commands(span)]
    found += [_import(line) for line in lines]
    for span in spans:
        found += [_flag(span), _file(span), _name(span), _field(span)]
    found += [_link(target, folder) for target in re.findall(r"\]\(([^)\s]+)\)", prose)]
    for part in [*lines, *spans]:
        found += [_config(file) for file in re.findall(r"\bconfigs/\w+\.py", part)]
        found += [_config_field(name) for name in re.findall(r"\bconfig\.([a-z][\w.]*\w)", part)]
        found += [_extras(names) for names in re.findall(r"(?:\.|dmphn_jax)\[([a-z,]+)\]", part)]
        found += [_target(name) for name in re.findall(r"^make ([a-z]+)", part.strip())]
    return [fault for fault in dict.fromkeys(found) if fault]


def commands(text: str) -> list[list[str]]:
    """Returns the command lines in a page's blocks, each as words."""
    lines = [line for block in _split(text)[0] for line in block.replace("\\\n", " ").splitlines()]
    return [words for line in lines for words in _commands(line)]


def _split(text: str) -> tuple[list[str], str]:
    """Returns a page's blocks of code, fenced or indented by four spaces, and the rest."""
    blocks, rest, fence, block = [], [], False, []
    for line in [*text.splitlines(), ""]:
        if line.lstrip().startswith("```"):
            fence = not fence
        elif fence or line.startswith("    "):
            block.append(line)
            continue
        if block:
            blocks.append("\n".join(block))
            block = []
        rest.append(line)
    return blocks, "\n".join(rest)


def _commands(line: str) -> Iterator[list[str]]:
    """Yields the words of the project's commands in a line of shell."""
    line = re.sub(r"^\s*(?:(?:do|then|time)\s+|[A-Z_]+=\S*\s+)*", "", line)
    if not re.match(r"(dmphn|python) ", line):
        return
    words = shlex.split(line, comments=True)
    if words[0] == "dmphn" or words[1:3] == ["-m", "dmphn_jax"]:
        yield ["dmphn", *words[1 if words[0] == "dmphn" else 3 :]]
    elif words[1] == "-m" and words[2].split(".")[0] in ("dmphn_jax", "tfds_gopro"):
        yield words[2:]
    elif words[1].startswith("tools/"):
        yield words[1:]


def _command(words: list[str]) -> str:
    """Returns what is wrong with a whole command line, "" for nothing."""
    shown = " ".join(words)
    try:
        _parse(words)
    except (UserError, _CommandError) as error:
        return f"{shown}: {error}"
    return ""


def _mention(words: list[str]) -> str:
    """Returns what is wrong with a command in running text, where arguments may be left out."""
    if words[:2] in (["dmphn", "COMMAND"], ["dmphn", "--help"]):
        return ""
    name = " ".join(words[:2]) if words[0] == "dmphn" else words[0]
    try:
        known = _flags(name)
    except _CommandError as error:
        return f"{name}: {error}"
    given = [word.partition("=")[0] for word in words if word.startswith("--")]
    wrong = [flag for flag in given if flag not in known and not flag.startswith("--config.")]
    return f"{name}: has no {wrong[0]}" if wrong else ""


class _CommandError(Exception):
    """A command line that its parser refuses."""


class _Parsed(Exception):  # noqa: N818 - no error
    """Ends a command once its arguments are parsed."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self.parser = parser


def _parse(words: list[str]) -> None:
    """Parses a command line as the command would; raises UserError or `_CommandError`."""
    if words[0] == "dmphn_jax.main":
        from dmphn_jax import main

        args, overrides = main._parse(words[1:])
        settings.check(settings.read(args.config, overrides))
        return
    main, argv = _main(words)

    def parse_args(parser, args=None, namespace=None):
        own_parse_args(parser, args, namespace)
        raise _Parsed(parser)

    own_parse_args = argparse.ArgumentParser.parse_args
    said = io.StringIO()
    with (
        mock.patch.object(argparse.ArgumentParser, "parse_args", parse_args),
        mock.patch.object(sys, "argv", words),
        contextlib.redirect_stderr(said),
        contextlib.redirect_stdout(io.StringIO()),
    ):
        try:
            main(argv)
        except _Parsed:
            pass
        except SystemExit as status:  # argparse: 0 after --help, 2 after a mistake
            if status.code:
                raise _CommandError(said.getvalue().strip().splitlines()[-1]) from None


def _main(words: list[str]) -> tuple[Callable, list[str]]:
    """Returns the function that runs a command, and its arguments."""
    if words[0].startswith("tools/"):
        if not (ROOT / words[0]).is_file():
            raise _CommandError("no such file")
        with mock.patch.object(sys, "path", [str(ROOT / "tools"), *sys.path]):  # as a script's is
            main = runpy.run_path(str(ROOT / words[0]))["main"]
        return (lambda argv: main()), words[1:]
    if words[0] == "dmphn":
        if len(words) < 2 or words[1] not in cli.COMMANDS:
            raise _CommandError("no such command")
        module = f"dmphn_jax.commands.{words[1].replace('-', '_')}"
        return importlib.import_module(module).main, words[2:]
    if importlib.util.find_spec(words[0]) is None or not hasattr(
        module := importlib.import_module(words[0]), "main"
    ):
        raise _CommandError("no such command")
    return module.main, words[1:]


@functools.cache
def _flags(name: str) -> frozenset[str]:
    """Returns the flags of a command: `dmphn deblur`, `dmphn_jax.main`, `tools/overfit.py`."""

    def parse_args(parser, args=None, namespace=None):
        raise _Parsed(parser)

    words = name.split()
    main, _ = _main(words)
    with (
        mock.patch.object(argparse.ArgumentParser, "parse_args", parse_args),
        mock.patch.object(sys, "argv", words),
    ):
        try:
            main([])
        except _Parsed as parsed:
            actions = parsed.parser._actions
            return frozenset(flag for action in actions for flag in action.option_strings)
    raise _CommandError("does not parse its arguments")


@functools.cache
def _all_flags() -> frozenset[str]:
    names = [f"dmphn {name}" for name in cli.COMMANDS]
    names += ["dmphn_jax.main", "tfds_gopro.prepare"]
    names += [f"tools/{file.name}" for file in (ROOT / "tools").glob("*.py")]
    scripts = " ".join(file.read_text() for file in (ROOT / "launch").glob("*.s*"))
    launch = re.findall(r"--[a-z][a-z-]*", scripts)
    return frozenset({"--version", "--help", *launch}.union(*map(_flags, names)))


def _flag(span: str) -> str:
    """Looks for a flag that stands alone: `--stages k`; which command's, the sentence says."""
    match = re.match(r"--[a-z][a-z-]*(?![\w.-])", span)
    unknown = match and match[0] not in _all_flags() | {"--config"}
    return f"{match[0]}: no command has it" if match and unknown else ""


def _file(span: str) -> str:
    """Looks for a file or a folder of the project, by its path or by its name alone."""
    file = span.partition(":")[0]
    if re.fullmatch(rf"(?:{FOLDERS})/[\w./*-]*", file):
        return "" if list(ROOT.glob(file)) else f"{file}: no such file"
    if re.fullmatch(r"[\w*-]+\.(?:py|sh|sbatch|toml|cff|md)", file):
        places = [ROOT, *(ROOT / folder for folder in FOLDERS.split("|"))]
        known = any(next(p.glob(file if p == ROOT else f"**/{file}"), None) for p in places)
        return "" if known or file == "report.md" else f"{file}: no such file"
    return ""


def _link(target: str, folder: Path) -> str:
    path = target.partition("#")[0]
    outside = "://" in target or not path
    return "" if outside or (folder / path).exists() else f"({target}): a link to nothing"


def _name(span: str) -> str:
    """Looks for a module, or a name in it: `dmphn_jax.data.base.Pair`."""
    if not re.fullmatch(r"(?:dmphn_jax|tfds_gopro)(?:\.\w+)+", span):
        return ""
    return "" if _exists(span) else f"{span}: no such name"


def _import(line: str) -> str:
    """Looks for what a line of Python imports from the project."""
    match = re.match(r"\s*from ((?:dmphn_jax|tfds_gopro)[\w.]*) import ([\w, ]+)", line)
    names = [f"{match[1]}.{name.strip()}" for name in match[2].split(",")] if match else []
    wrong = [name for name in names if not _exists(name)]
    return f"{wrong[0]}: no such name" if wrong else ""


def _exists(name: str) -> bool:
    module, _, rest = name.partition(".")
    found = importlib.import_module(module)
    for part in rest.split("."):
        module = f"{module}.{part}"
        if not hasattr(found, part):
            try:
                importlib.import_module(module)
            except ModuleNotFoundError:
                return False
        found = getattr(found, part)
    return True


def _config(file: str) -> str:
    return "" if (ROOT / file).is_file() else f"{file}: no such config"


def _config_field(name: str) -> str:
    known = name in FIELDS | SECTIONS or name in ("json", "py")
    return "" if known else f"config.{name}: no such field"


def _field(span: str) -> str:
    """Looks for a field written without `config.`: `optimizer.accumulate_steps`."""
    match = re.match(rf"((?:{'|'.join(SECTIONS)})\.[a-z]\w*)(?![\w./(])", span)
    wrong = match and not span.endswith((".py", ".md")) and match[1] not in FIELDS
    return f"{match[1]}: no such field" if match and wrong else ""


def _extras(names: str) -> str:
    with (ROOT / "pyproject.toml").open("rb") as file:
        known = tomllib.load(file)["project"]["optional-dependencies"]
    wrong = [name for name in names.split(",") if name not in known]
    return f"[{wrong[0]}]: no such extra" if wrong else ""


def _target(name: str) -> str:
    makefile = (ROOT / "Makefile").read_text()
    return "" if re.search(rf"^{name}:", makefile, re.M) else f"make {name}: no such target"
