"""The first part of a run: everything is checked, then opened, before its first step."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from dmphn_jax import distributed
from dmphn_jax.data import SourceOptions, choose_feed
from dmphn_jax.data.base import Feed, PairSource
from dmphn_jax.data.memory import check_fits
from dmphn_jax.data.sources import ChosenFeed
from dmphn_jax.evaluation.selection import PairSelection
from dmphn_jax.models import ModelConfig, build, convolutions_for, parameter_count
from dmphn_jax.runtime import data_mesh
from dmphn_jax.storage import Address
from dmphn_jax.training import initialize, resume, settings, work_folder
from dmphn_jax.training.checkpoints import RunCheckpoints
from dmphn_jax.training.optimizer import Schedule, make_optimizer
from dmphn_jax.training.status import RunStatus
from dmphn_jax.training.step import StepOptions, check_batch, make_train_step


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A run that can begin.

    Attributes:
      config, workdir: what it was asked for.
      files: the folder that its files are written to, `workdir` itself or its copy here.
      status: the file that monitors read.
      model, mesh, feed: what it trains, where, on what.
      test_source: pairs of its evaluations; None where there are none, and in other processes.
      store: its checkpoints, in process 0.
      num_steps: its length.
      tx: its optimiser.
      step: the compiled step, see `make_train_step`.
      described: what a checkpoint says of the run that wrote it, and a resumed one must agree with.
    """

    config: Any
    workdir: Path | Address
    files: Path
    status: RunStatus
    model: ModelConfig
    mesh: Mesh
    feed: Feed
    test_source: PairSource | None
    store: RunCheckpoints | None
    num_steps: int
    tx: Any
    step: Callable[..., Any]
    described: dict[str, Any]


def prepare(
    config: Any,
    workdir: Path | Address,
    feed: Feed | None,
    test_source: PairSource | None,
    held: contextlib.ExitStack,
) -> Prepared:
    """Checks a run, takes its work folder, opens its data and builds its step.

    What costs nothing is checked first, data are opened and devices filled last.

    Args:
      config: that `settings.check` has passed.
      workdir: of the run.
      feed, test_source: instead of the config's.
      held: gets what is to be closed at the end.

    Raises UserError, in every process, for a run that makes no sense, cannot begin or does not go
    on from the one that stands in `workdir`.
    """
    # ---- What needs no data
    mesh = data_mesh()
    model = _model(config, mesh)

    # ---- The work folder, and the run that stands there already, if any
    store, saved = _take(config, workdir, model, held)
    resume.refuse_other_config(saved, config, workdir)
    if saved is None and config.init_from:
        initialize.check(model, config.init_from)
    status = _begin_status(workdir, mesh, saved, held)

    # ---- Data: the few test pairs before the feed, which may fill device memory
    if test_source is None and config.eval.every:
        test_source = _test_source(config)
    chosen = _feed(config, mesh, saved) if feed is None else _given(feed)

    # ---- What depends on their number
    num_steps = settings.steps_of(config, chosen.steps_per_epoch)
    tx, schedule = make_optimizer(config.optimizer, chosen.steps_per_epoch, num_steps)
    described = _described(config, num_steps, chosen)
    resume.refuse_other_schedule(saved, described, workdir)

    # ---- What fills memory
    feed = held.enter_context(contextlib.closing(chosen.make()))
    return Prepared(
        config=config,
        workdir=workdir,
        files=work_folder.files_of(workdir),
        status=status,
        model=model,
        mesh=mesh,
        feed=feed,
        test_source=test_source,
        store=store,
        num_steps=num_steps,
        tx=tx,
        step=_step(config, model, mesh, feed, tx, schedule),
        described=described,
    )


def _model(config: Any, mesh: Mesh) -> ModelConfig:
    """Returns the model; raises UserError if it or its batch does not suit the devices."""
    model = settings.model_of(config)
    check_batch(config.batch_size, mesh)
    check_memory(config, model, mesh)
    return model


def pairs_of(config: Any) -> PairSelection:
    """Returns the pairs of `config.eval`: those a run and `--mode evaluate` score."""
    source, count = config.eval.source or config.data.source, config.eval.count
    options = SourceOptions.of(config.data, records="", count=count or 32, seed=config.seed)
    return PairSelection(source, options=options, limit=count or None)


def check_memory(config: Any, model: ModelConfig, mesh: Mesh) -> None:
    """Raises UserError for a model or batch that no device here can hold.

    A lower bound: the parameters with Adam's two averages and a gradient, the batch with its
    uint8 and float32 crops, and one feature map at full resolution of each crop.
    """
    parameters = parameter_count(model)
    state = 4 * parameters * (4 + (config.ema_decay > 0))
    feature = config.model.width * (2 if config.compute_dtype == "bfloat16" else 4)
    crop = config.crop_size**2 * (2 * 3 * (1 + 4) + feature)
    check_fits(
        state + config.batch_size // mesh.size * crop,
        mesh.local_devices,
        share=1.0,
        limit=None,
        what=f"{parameters:,} parameters (config.model.width = {config.model.width}) and "
        f"config.batch_size = {config.batch_size} crops of {config.crop_size} x "
        f"{config.crop_size}",
        way_out="take smaller ones, or more devices",
    )


def _take(
    config: Any, workdir: Path | Address, model: ModelConfig, held: contextlib.ExitStack
) -> tuple[RunCheckpoints | None, dict[str, Any] | None]:
    """Takes the folder in process 0; returns its checkpoints, and the newest one's item `run`."""
    store: RunCheckpoints | None = None

    def first() -> dict[str, Any] | None:
        nonlocal store
        store = work_folder.take(workdir, held, model, keep=config.keep_checkpoints)
        return store.run_of_latest()

    saved = distributed.from_first(first)
    return store, saved


def _begin_status(
    workdir: Path | Address, mesh: Mesh, saved: dict[str, Any] | None, held: contextlib.ExitStack
) -> RunStatus:
    """Begins the file that monitors read, of a run that has its folder and nothing else yet.

    `held` notes there why the run ended, if by an error.
    """
    devices = f"{mesh.size} x {mesh.devices.flat[0].platform}"
    status = RunStatus(
        work_folder.files_of(workdir),
        on=jax.process_index() == 0,
        fresh=saved is None and isinstance(workdir, Path),  # a bucket may have been sent it
        step=saved["step"] if saved else 0,
        num_steps=None,
        checkpoint=None,
        devices=f"{devices} of {jax.process_count()} processes",
    )
    held.enter_context(status.failing())
    return status


def _feed(config: Any, mesh: Mesh, saved: dict[str, Any] | None) -> ChosenFeed:
    data = config.data.to_dict()
    if saved and data["feed"] == "auto":  # the two feeds deal crops differently
        data["feed"] = "host" if saved["feed_kind"] == "HostFeed" else "resident"
    return choose_feed(
        data,
        mesh=mesh,
        seed=config.seed,
        batch_size=config.batch_size,
        crop_size=config.crop_size,
    )


def _given(feed: Feed) -> ChosenFeed:
    return ChosenFeed(type(feed).__name__, feed.steps_per_epoch, lambda: feed)


def _described(config: Any, num_steps: int, feed: ChosenFeed) -> dict[str, Any]:
    return {
        "config": settings.flat(config) | {"num_steps": num_steps},
        "steps_per_epoch": feed.steps_per_epoch,
        "feed_kind": feed.kind,
    }


def _step(
    config: Any, model: ModelConfig, mesh: Mesh, feed: Feed, tx: Any, schedule: Schedule
) -> Callable[..., Any]:
    convolutions = convolutions_for(mesh.devices.flat[0].platform, config.layout)
    module = build(model, config.compute_dtype, remat=config.remat, convolutions=convolutions)
    return make_train_step(module, tx, schedule, feed.crops, mesh, StepOptions.of(config))


def _test_source(config: Any) -> PairSource | None:
    """Returns the pairs of `config.eval` in process 0; of a folder without a test split its own."""
    source: PairSource | None = None

    def first() -> None:
        nonlocal source
        source = pairs_of(config).open()

    distributed.from_first(first)
    return source
