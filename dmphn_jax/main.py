"""Trains or evaluates the experiment of a config file.

python -m dmphn_jax.main --config configs/stack4.py [--workdir D] [--config.FIELD=VALUE ...]
"""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from pathlib import Path
from typing import Any, NoReturn

from dmphn_jax import distributed, storage
from dmphn_jax.data import SOURCES
from dmphn_jax.errors import UserError, nearest, run_command
from dmphn_jax.processes import supervision, termination
from dmphn_jax.training import settings


def main(argv: list[str]) -> int:
    """Parses flags, starts distributed JAX, trains or evaluates; returns the exit status.

    0 at the end of a run. 75 (EX_TEMPFAIL, "try again") if SIGTERM, SIGHUP or a preemption notice
    ended it early: it has saved, the same command goes on, and launchers start it again; also if
    another process of the job was lost, which loses the steps since the last save. 130 after
    Ctrl-C, which has saved likewise but means a person: launchers leave it. An evaluation
    (`--mode evaluate`) gives 1 if a pair could not be scored, and 143 after SIGTERM.
    """
    args, overrides = _parse(argv)
    distributed.check(args.coordinator, args.num_processes, args.process_id)
    several = args.supervise or args.num_processes > 1 or distributed.one_of_several()
    if several and not supervision.supervised():
        return supervision.run([sys.executable, "-m", "dmphn_jax.main", *argv])
    config = settings.read(args.config, overrides)
    settings.check(config)
    workdir = storage.place(args.workdir or settings.workdir_of(args.config))

    from dmphn_jax import runtime

    runtime.cache_compilations()
    if args.mode != "evaluate":
        runtime.keep_freed_memory()
    distributed.start(args.coordinator, args.num_processes, args.process_id, args.heartbeat)
    with distributed.shared_fate():
        return _work(args, config, workdir, argv)


def _work(
    args: argparse.Namespace, config: Any, workdir: Path | storage.Address, argv: list[str]
) -> int:
    if args.mode == "evaluate":
        return _evaluate(config, workdir, argv)

    from dmphn_jax.training.loop import train

    result = train(config, workdir, profile=args.profile)
    return termination.status(result.stopped) if result.stopped else 0


def _parse(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Returns the command's own flags, and those that override the config's fields.

    The latter go to ml_collections' config_flags as they are (`settings.read`). The former are not
    absl's: its parser reports a mistake in several lines, and its `--help` lists the flags of
    every module that has been imported.
    """
    parser = _Parser(
        prog="python -m dmphn_jax.main",
        description="Trains or evaluates an experiment; a run goes on from its last checkpoint.",
        epilog="Fields of the config are set as --config.batch_size=12, sections as "
        f"--config.optimizer.learning_rate=2e-4; configs/base.py lists them all. {_names()}. "
        "Exit status 75: asked to stop, saved, to be started again.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config", metavar="FILE[:ARG]", help="such as configs/dmphn.py:1-2-4-8 (needed)"
    )
    parser.add_argument(
        "--workdir", metavar="D", help="folder of the run, or gs://BUCKET/FOLDER (runs/<config>)"
    )
    parser.add_argument("--mode", choices=("train", "evaluate"), default="train")
    parser.add_argument(
        "--profile",
        type=_steps,
        metavar="FIRST:LAST",
        help="write a profile of these steps to <workdir>/profile",
    )
    group = parser.add_argument_group("several processes, where the platform does not tell")
    group.add_argument("--coordinator", default="", metavar="HOST:PORT", help="process 0")
    group.add_argument("--num-processes", type=int, default=-1, metavar="N")
    group.add_argument("--process-id", type=int, default=-1, metavar="I")
    group = parser.add_argument_group("several processes, anywhere")
    group.add_argument(
        "--heartbeat",
        type=_seconds,
        default=distributed.HEARTBEAT,
        metavar="SECONDS",
        help="a process that is silent for so long is lost: the others end with status 75 "
        f"({distributed.HEARTBEAT})",
    )
    group.add_argument(
        "--supervise",
        action="store_true",
        help="watch this process from a parent that tells of a loss in one line; implied by the "
        "flags above and a launcher's variables (Kubernetes' too), needed on Cloud TPU only",
    )
    own, overrides = settings.divided(argv)
    args = parser.parse_args(own)
    if not args.config:
        parser.error("--config FILE is needed, such as configs/stack4.py")
    return args, overrides


def _names() -> str:
    """Returns the fields that take one of a few names, and the names, as a sentence of the help."""
    fields = {name: ", ".join(known) for name, known in settings.choices().items()}
    fields["data.source"] = f"{', '.join(SOURCES)}, or a path"
    return "Names: " + "; ".join(f"{field}: {known}" for field, known in fields.items())


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, with the nearest flag."""

    def error(self, message: str) -> NoReturn:
        wrong = re.search(r"unrecognized arguments: (\S+)", message)
        if wrong:
            known = [flag for action in self._actions for flag in action.option_strings]
            hint = nearest(wrong[1].partition("=")[0], known)
            message = f"unknown argument {wrong[1]}{hint}"
        raise UserError(f"{message}; --help tells more")


def _seconds(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of seconds from 1 up")
    return int(text)


def _steps(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+):(\d+)", text)
    if not match or int(match[1]) >= int(match[2]):
        raise argparse.ArgumentTypeError(f"{text!r}: FIRST:LAST needed, such as 100:120")
    return int(match[1]), int(match[2])


def _evaluate(config: Any, workdir: Path | storage.Address, argv: list[str]) -> int:
    """Evaluates the run's best checkpoint, or its newest where none was judged.

    Process 0 does; the others wait, and end as it does.
    """
    from dmphn_jax.evaluation import markdown
    from dmphn_jax.evaluation.run import EvaluationOptions, evaluate
    from dmphn_jax.training import work_folder
    from dmphn_jax.training.prepare import pairs_of

    def first() -> int:
        with work_folder.evaluated(workdir) as (checkpoint, folder):
            report = evaluate(
                EvaluationOptions(
                    pairs=pairs_of(config),
                    checkpoints=(checkpoint,),
                    folder=folder,
                    command=shlex.join(["python", "-m", "dmphn_jax.main", *argv]),
                )
            )
        print(markdown.text(report), end="")
        return 1 if report.failed else 0

    return distributed.from_first(first)


if __name__ == "__main__":
    distributed.leave(lambda: run_command(main, sys.argv[1:]))
