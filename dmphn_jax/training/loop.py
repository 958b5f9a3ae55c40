"""Training, read from top to bottom: prepare, restore, loop. The step itself is in `step`."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import jax

from dmphn_jax import distributed, storage
from dmphn_jax.data.base import Feed, PairSource
from dmphn_jax.models import parameter_shapes
from dmphn_jax.training import resume, settings, summary
from dmphn_jax.training.initialize import initial_params
from dmphn_jax.training.metrics_reader import MetricsReader
from dmphn_jax.training.periodic import PeriodicEvaluation
from dmphn_jax.training.prepare import Prepared, pairs_of, prepare
from dmphn_jax.training.profile import Profile
from dmphn_jax.training.run_log import RunLog
from dmphn_jax.training.signals import StopRequest
from dmphn_jax.training.speed import yardstick
from dmphn_jax.training.state import TrainState, init_state, make_state


class TrainResult(NamedTuple):
    """How a run ended.

    Attributes:
      step: steps taken in all.
      checkpoint: the newest checkpoint; None where there is none, and in processes other than the
        first.
      stopped: the signal that ended it early, None if it ran to its end.
      scores: of the last evaluation, `eval_<metric>`; empty if there was none.
    """

    step: int
    checkpoint: Path | storage.Address | None
    stopped: str | None
    scores: dict[str, float]


class Start(NamedTuple):
    """Where a run begins: its state, the steps behind it, its best evaluation, where from."""

    state: TrainState
    step: int
    best: dict[str, Any] | None
    origin: str


def train(
    config: Any,
    workdir: str | Path | storage.Address,
    *,
    feed: Feed | None = None,
    test_source: PairSource | None = None,
    profile: tuple[int, int] | None = None,
) -> TrainResult:
    """Trains `config` in `workdir`, going on from its newest checkpoint if there is one.

    Args:
      config: a ConfigDict with the fields of `configs/base.py`.
      workdir: a folder, or `gs://bucket/folder`; gets `checkpoints/<step>`, `metrics.csv`,
        `tensorboard/`, `config.json`, `model.txt`, `status.json`, `lock`.
      feed: batches; by default those of `config.data`.
      test_source: pairs to evaluate on; by default those of `config.eval` and `config.data`.
      profile: (first, last) steps between which a profile is written to `<workdir>/profile`.

    Raises UserError for a config that makes no sense, data that is not there, a checkpoint of
    another run, or a work folder that another run has; DivergedError if the loss becomes NaN or
    infinite.
    """
    settings.check(config)
    workdir = storage.place(workdir)
    with StopRequest() as stop, contextlib.ExitStack() as held:
        run = prepare(config, workdir, feed, test_source, held)
        start = restore(run)
        log = _begin(run, start)
        held.callback(log.close)
        tracing = Profile(profile, run.files / "profile", log.say)
        return _loop(run, start, log, tracing, stop)


def restore(run: Prepared) -> Start:
    """Returns the run's newest undamaged state, or a fresh one; the feed goes to its place."""
    config, ema = run.config, run.config.ema_decay > 0
    shapes = parameter_shapes(run.model)
    template = jax.eval_shape(lambda p: make_state(p, run.tx, ema=ema), shapes)
    state, saved = resume.newest(run.store, template, run.mesh)
    if state is not None:
        run.feed.restore(saved["feed"])
        return Start(state, saved["step"], saved["best"], f"resumed at step {saved['step']:,}")
    params, origin = initial_params(
        run.model, seed=config.seed, init_from=config.init_from, missing=config.init_missing
    )
    return Start(init_state(params, run.tx, run.mesh, ema=ema), 0, None, origin)


def _begin(run: Prepared, start: Start) -> RunLog:
    """Opens the log and writes what people and monitors see of a run at its start."""
    first = jax.process_index() == 0
    log = RunLog(run.files, resumed=start.step, stages=run.model.stages, on=first)
    log.say(summary.start(run, start.state.params, start.origin, start.step))
    log.file("config.json", json.dumps(run.described["config"], indent=1) + "\n")
    log.file("model.txt", summary.parameters(start.state.params) + "\n")
    kept = run.store.last_good if run.store else None
    run.status.update(step=start.step, num_steps=run.num_steps, checkpoint=kept)
    return log


def _loop(
    run: Prepared, start: Start, log: RunLog, profile: Profile, stop: StopRequest
) -> TrainResult:
    """Takes the steps; nothing in it waits for the device but the reader, one dispatch behind."""
    config, feed, store, num_steps = run.config, run.feed, run.store, run.num_steps
    state, step, best, _ = start
    by_chip = yardstick(run.mesh, run.model, config)
    reader = MetricsReader(config, log, store, num_steps, feed.steps_per_epoch, run.status, by_chip)
    evaluation = _evaluation(run, log, stop)
    # On a CPU a loop of steps is slow (see make_train_step) and dispatching costs nothing.
    together = 1 if run.mesh.devices.flat[0].platform == "cpu" else config.steps_per_dispatch
    stopped = stop.reached()
    while step < num_steps and stopped is None:
        profile.before(step, reader.drain)
        n = _dispatch_length(step, num_steps, together, config, profile)
        state, metrics = run.step(state, feed.resident, feed.next(n))
        step += n
        reader.push(step, metrics)
        stopped = stop.reached()
        profile.after(step, reader.drain)
        score, judged, last = None, False, step == num_steps
        if evaluation and stopped is None and (last or step % config.eval.every == 0):
            judged = True
            reader.drain()
            score, best = evaluation(state.deployed, step, best)
            reader.pause()
            if stop.alone:  # several stop together, a few dispatches later
                stopped = evaluation.left
        if store and (last or stopped or judged or step % config.checkpoint_every == 0):
            store.save(
                state, run.described | {"step": step, "feed": feed.state(), "best": best}, score
            )
    reader.drain()
    profile.close(step)

    def saved() -> str | None:
        if store:
            store.wait()
        return stopped or (evaluation.left if evaluation else None)

    # The others wait here while process 0 evaluates and saves: JAX would give it five minutes.
    stopped = distributed.from_first(saved)
    checkpoint = store.last_good if store else None
    run.status.update(state="stopped" if stopped else "finished", step=step, checkpoint=checkpoint)
    log.say(summary.end(step, num_steps, stopped, checkpoint, best, run.workdir))
    return TrainResult(step, checkpoint, stopped, evaluation.scores if evaluation else {})


def _evaluation(run: Prepared, log: RunLog, stop: StopRequest) -> PeriodicEvaluation | None:
    """Returns the run's evaluation; None where there is none, and in other processes."""
    config = run.config
    if run.test_source is None or run.store is None or not config.eval.every:
        return None
    return PeriodicEvaluation(
        run.test_source,
        pairs_of(config),
        run.model,
        pictures=config.eval.pictures,
        log=log,
        asked=stop.asked,
    )


def _dispatch_length(
    step: int, num_steps: int, together: int, config: Any, profile: Profile
) -> int:
    """Returns how many steps the next dispatch takes: up to the next thing that needs a stop.

    It depends on the step only, so that resumed and uninterrupted runs dispatch alike.
    """
    stops = [num_steps, *profile.ends]
    for every in (together, config.checkpoint_every, config.eval.every):
        if every:
            stops.append((step // every + 1) * every)
    return min(stop for stop in stops if stop > step) - step
