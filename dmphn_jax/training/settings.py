"""A run's configuration: read from a file and flags, checked, compared on resume. No jax."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from dmphn_jax import storage
from dmphn_jax.data.options import FEEDS, RECIPES, SOURCES, SourceOptions
from dmphn_jax.errors import UserError, nearest, one_line
from dmphn_jax.models import LAYOUT_CHOICES, ModelConfig, zoo
from dmphn_jax.training import experiments, ranges
from dmphn_jax.training.losses import LOSSES
from dmphn_jax.training.optimizer import OPTIMIZERS, SCHEDULES, OptimizerOptions

COMPUTE_DTYPES = ("float32", "tf32", "bfloat16")  # of training; float16 would need loss scaling
MISSING = {  # what stages that `init_from` lacks begin with
    "last": "copies of the last stage",
    "random": "random weights",
}
# What may differ between the parts of a run without changing what it computes. Where the length
# of the run shapes the learning rate (cosine), num_steps and num_epochs may not.
_FREE = (
    "checkpoint_every",
    "keep_checkpoints",
    "log_every",
    "steps_per_dispatch",
    "remat",
    "init_from",
    "init_missing",
    "data.threads",
    "data.prefetch",
)


def read(path: str, overrides: list[str]) -> Any:
    """Returns the ConfigDict of a config file (`FILE` or `FILE:ARGUMENT`) with flags applied.

    Args:
      path: the file; one that is not there is looked for among the project's (`experiments`).
      overrides: flags as they were given, such as `--config.batch_size=12`.

    Raises UserError in one line for a file, field or value that makes no sense.
    """
    from absl import flags
    from ml_collections import config_flags

    argv = [f"--config={_find(path)}", *overrides]
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=argv)
    try:
        rest = values(["dmphn", *argv])[1:]
        config = values["config"].value
        known = names(config.to_dict())
    except flags.Error as error:
        if "parsing config file" in str(error):
            raise UserError(f"{path}: {_last_line(error)}") from None
        raise UserError(one_line(error)) from None
    except (AttributeError, KeyError, TypeError) as error:
        wrong = _unknown_field(path, overrides)
        raise UserError(wrong or f"{path}: {one_line(error)}") from None
    except UserError:
        raise
    except Exception as error:  # whatever a config file of the user's own raises
        raise UserError(f"{path}: {type(error).__name__}: {_last_line(error)}") from None
    if rest:
        raise UserError(f"unexpected argument {rest[0]!r}; a field is set as --config.FIELD=VALUE")
    missing = sorted(names(_base()) - known)
    if missing:
        raise UserError(
            f"{path}: has no field {missing[0]}; begin with start_from('configs/base.py')"
        )
    return config


def divided(argv: list[str]) -> tuple[list[str], list[str]]:
    """Returns the command's own arguments, and those that set the config's fields."""
    own: list[str] = []
    overrides: list[str] = []
    rest = list(argv)
    while rest:
        arg = rest.pop(0)
        if not re.match(r"--?(no)?config\.", arg):
            own.append(arg)
            continue
        if "=" not in arg and rest and not rest[0].startswith("-"):
            arg = f"{arg}={rest.pop(0)}"
        overrides.append(arg)
    return own, overrides


def choices() -> dict[str, Collection[str]]:
    """Returns the fields that take one of a few names, and the names: those of the registries."""
    return {
        "compute_dtype": COMPUTE_DTYPES,
        "layout": LAYOUT_CHOICES,
        "init_missing": MISSING,
        "augment": RECIPES,
        "loss.name": LOSSES,
        "data.feed": FEEDS,
        "optimizer.name": OPTIMIZERS,
        "optimizer.schedule": SCHEDULES,
    }


def check(config: Any) -> None:
    """Raises UserError naming the first field that is none, or whose value no run can have."""
    fields = flat(config)
    _check_names(set(fields))
    OptimizerOptions.of(config.optimizer)
    for name, known in choices().items():
        if fields[name] not in known:
            hint = nearest(str(fields[name]), known)
            raise UserError(
                f"config.{name} = {fields[name]!r} is not known{hint}: one of {', '.join(known)}"
            )
    ranges.check(fields, "config.")
    if config.num_steps:
        OptimizerOptions.of(config.optimizer).check_length(config.num_steps)
    _check_sources(config)
    model = model_of(config)
    for unit in model.multiple:
        if config.crop_size % unit:
            raise UserError(
                f"config.crop_size = {config.crop_size} must be a multiple of {unit} for "
                f"config.model.name = {config.model.name!r}"
            )


def _check_sources(config: Any) -> None:
    """Raises UserError for a source that is neither a name nor there, or scenes below a crop."""
    data = config.data
    try:
        options = SourceOptions.of(data, seed=config.seed)
    except UserError as error:
        raise UserError(f"config.data: {error}") from None
    for field, source in (("data.source", data.source), ("eval.source", config.eval.source)):
        if source and source not in SOURCES and not _is_there(source):
            raise UserError(
                f"config.{field} = {source!r}: no such folder, nor one of {', '.join(SOURCES)}"
                f"{nearest(source, SOURCES)}"
            )
    if data.source == "synthetic" and min(options.size) < config.crop_size:
        raise UserError(
            f"config.data.size = {tuple(options.size)} is smaller than config.crop_size = "
            f"{config.crop_size}"
        )


def _is_there(source: str) -> bool:
    """Tells whether a folder is there; one in a bucket is looked for when it is opened."""
    found = storage.place(source)
    return isinstance(found, storage.Address) or found.expanduser().exists()


def _check_names(found: set[str]) -> None:
    known = names(_base())
    for name in sorted(found - known):
        raise UserError(f"config.{name}: no such field{nearest(name, known)}")
    for name in sorted(known - found):
        raise UserError(f"config.{name} is missing; begin with the fields of configs/base.py")


def model_of(config: Any) -> ModelConfig:
    """Returns the model a run trains; raises UserError for a name that spells none."""
    try:
        return dataclasses.replace(
            zoo.get(config.model.name),
            width=config.model.width,
            global_skip=config.model.global_skip,
        )
    except ValueError as error:
        raise UserError(f"config.model.{error}") from None


def steps_of(config: Any, steps_per_epoch: int) -> int:
    """Returns the steps of a run; raises UserError for more than it can count."""
    num_steps: int = config.num_steps or config.num_epochs * steps_per_epoch
    if num_steps > ranges.MOST:
        raise UserError(
            f"config.num_epochs = {config.num_epochs} of {steps_per_epoch:,} steps are more "
            f"than the {ranges.MOST:,} a run can count"
        )
    return num_steps


def flat(config: Any) -> dict[str, Any]:
    """Returns the fields of a ConfigDict or its dict: `section.field` -> plain JSON value."""
    result = {}
    for name, value in (config if isinstance(config, Mapping) else config.to_dict()).items():
        if isinstance(value, Mapping):
            result |= {f"{name}.{key}": inner for key, inner in flat(value).items()}
        else:
            result[name] = list(value) if isinstance(value, tuple) else value
    return result


def names(items: Mapping[str, Any]) -> set[str]:
    """Returns the names of all fields, `section.field`."""
    return set(flat(items))


def changed(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Returns the names of fields that differ and would make a resumed run another run.

    Args:
      before, now: `flat(config)` of the checkpoint and of this start. `num_steps` must hold the
        run's length in both.
    """
    free = {name for name in now if name in _FREE or name.startswith("eval.")} | {"num_epochs"}
    if now["optimizer.schedule"] != "cosine":
        free.add("num_steps")
    if now["data.source"] != "folder":
        free.add("data.data_dir")  # the same data may have moved
    common = before.keys() & now.keys()  # another version may know more fields
    return [name for name in sorted(common - free) if before[name] != now[name]]


def workdir_of(path: str) -> str:
    """Returns the default work folder of a config: `configs/dmphn.py:1-2-4` -> runs/dmphn-1-2-4."""
    file, _, argument = path.partition(":")
    stem = Path(file).stem
    return str(Path("runs") / (f"{stem}-{argument}" if argument else stem))


def _find(path: str) -> str:
    """Returns `path`, or the project's own config of that name where there is no such file."""
    file, colon, argument = path.partition(":")
    if os.path.isfile(file):
        return path
    return f"{experiments.find(file)}{colon}{argument}"


def _base() -> dict[str, Any]:
    return experiments.start_from("configs/base.py").to_dict()


def _unknown_field(path: str, overrides: list[str]) -> str:
    """Returns the line about the first flag that names no field, "" if there is none."""
    known = names(_base())
    sections = {name.rpartition(".")[0] for name in known} - {""}
    for flag in overrides:
        match = re.match(r"--?(?:no)?config\.([^=]+)", flag)
        if match and match[1] not in known | sections:
            return f"config.{match[1]}: no such field{nearest(match[1], known)}"
    return ""


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
