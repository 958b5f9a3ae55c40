"""Training, read from top to bottom. The step itself is in `train_step`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import jax

from dmphn_jax import distributed
from dmphn_jax.data.base import Feed, PairSource
from dmphn_jax.files import write_atomically
from dmphn_jax.models import build, convolutions_for, parameter_shapes
from dmphn_jax.runtime import data_mesh
from dmphn_jax.training import resume, settings, summary
from dmphn_jax.training.checkpoints import RunCheckpoints
from dmphn_jax.training.initialize import initial_params
from dmphn_jax.training.metrics_reader import MetricsReader
from dmphn_jax.training.optimizer import make_optimizer
from dmphn_jax.training.periodic import PeriodicEvaluation, pairs_of
from dmphn_jax.training.run_log import RunLog
from dmphn_jax.training.signals import StopRequest
from dmphn_jax.training.step import check_batch, init_state, make_state, make_train_step


class TrainResult(NamedTuple):
    """How a run ended.

    Attributes:
      step: steps taken in all.
      checkpoint: the newest checkpoint; None in processes other than the first.
      stopped: the signal that ended it early, None if it ran to its end.
      scores: of the last evaluation, `eval_<metric>`; empty if there was none.
    """

    step: int
    checkpoint: Path | None
    stopped: str | None
    scores: dict[str, float]


def train(
    config: Any,
    workdir: str | Path,
    *,
    feed: Feed | None = None,
    test_source: PairSource | None = None,
    profile: tuple[int, int] | None = None,
) -> TrainResult:
    """Trains `config` in `workdir`, going on from its newest checkpoint if there is one.

    Args:
      config: a ConfigDict with the fields of `configs/base.py`.
      workdir: gets `checkpoints/<step>`, `metrics.csv`, `tensorboard/`, `config.json`,
        `model.txt`.
      feed: batches; by default those of `config.data`.
      test_source: pairs to evaluate on; by default those of `config.eval` and `config.data`.
      profile: (first, last) steps between which a profile is written to `<workdir>/profile`.

    Raises UserError for a config that makes no sense, data that is not there, or a checkpoint
    of another run; DivergedError if the loss becomes NaN or infinite.
    """
    settings.check(config)
    with StopRequest() as stop:
        return _train(config, Path(workdir), feed, test_source, profile, stop)


def _train(
    config: Any,
    workdir: Path,
    feed: Feed | None,
    test_source: PairSource | None,
    profile: tuple[int, int] | None,
    stop: StopRequest,
) -> TrainResult:
    first_process = jax.process_index() == 0

    # ---- The run that stands there already, if any
    model = settings.model_of(config)
    store = None
    if first_process:
        store = RunCheckpoints(workdir / "checkpoints", model, keep=config.keep_checkpoints)
    saved = distributed.broadcast(store.run_of_latest() if store else None)
    resume.refuse_other_config(saved, config, workdir)

    # ---- Devices, data, model, optimiser
    mesh = data_mesh()
    check_batch(config.batch_size, mesh)
    if feed is None:
        feed = _make_feed(config, mesh, saved)
    if test_source is None and config.eval.every and first_process:
        test_source = pairs_of(config).open()
    num_steps = config.num_steps or config.num_epochs * feed.steps_per_epoch
    tx, schedule = make_optimizer(config.optimizer, feed.steps_per_epoch, num_steps)
    module = build(
        model,
        config.compute_dtype,
        remat=config.remat,
        convolutions=convolutions_for(mesh.devices.flat[0].platform),
    )
    step_fn = make_train_step(
        module,
        tx,
        schedule,
        feed,
        mesh,
        seed=config.seed,
        recipe=config.augment,
        loss=config.loss.name,
        levels=config.loss.levels,
        ema_decay=config.ema_decay,
        accumulate_steps=config.optimizer.accumulate_steps,
    )

    # ---- State: resumed, or fresh
    described = {
        "config": settings.flat(config) | {"num_steps": num_steps},
        "steps_per_epoch": feed.steps_per_epoch,
        "feed_kind": type(feed).__name__,
    }
    resume.refuse_other_schedule(saved, described, workdir)
    ema = config.ema_decay > 0
    template = jax.eval_shape(lambda p: make_state(p, tx, ema=ema), parameter_shapes(model))
    state, run = resume.newest(store, template, mesh)
    if state is not None:
        feed.restore(run["feed"])
        origin = f"resumed at step {run['step']:,}"
    else:
        params, origin = initial_params(
            model, seed=config.seed, init_from=config.init_from, missing=config.init_missing
        )
        state = init_state(params, tx, mesh, ema=ema)
        del params
    step, best = run["step"], run["best"]

    # ---- What a person sees
    log = RunLog(workdir, resumed=step, stages=model.stages, on=first_process)
    log.say(summary.start(config, model, state.params, feed, mesh, origin, step, num_steps))
    if first_process:
        write_atomically(
            workdir / "config.json", (json.dumps(described["config"], indent=1) + "\n").encode()
        )
        write_atomically(workdir / "model.txt", (summary.parameters(state.params) + "\n").encode())
    evaluate = None
    if test_source is not None and first_process and config.eval.every:
        evaluate = PeriodicEvaluation(
            test_source, pairs_of(config), model, pictures=config.eval.pictures
        )
    reader = MetricsReader(config, log, store, num_steps, feed.steps_per_epoch)
    scores: dict[str, float] = {}
    stopped = stop.reached()
    # On a CPU a loop of steps is slow (see make_train_step) and dispatching costs nothing.
    together = 1 if mesh.devices.flat[0].platform == "cpu" else config.steps_per_dispatch

    # ---- The loop: nothing in it waits for the device but the reader, one dispatch behind
    try:
        while step < num_steps and stopped is None:
            if profile and step == profile[0]:
                reader.drain()
                jax.profiler.start_trace(str(workdir / "profile"))
            n = _dispatch_length(step, num_steps, together, config, profile)
            state, metrics = step_fn(state, feed.resident, feed.next(n))
            step += n
            reader.push(step, metrics)
            stopped = stop.reached()
            if profile and step == profile[1]:
                reader.drain()
                jax.profiler.stop_trace()
                log.say(f"profile of steps {profile[0]} to {profile[1]}: {workdir}/profile")
            score = None
            every, last = config.eval.every, step == num_steps
            if evaluate and stopped is None and (step % every == 0 or last):
                reader.drain()
                scores = evaluate(state.deployed, step, log)
                score = scores["eval_psnr"]
                log.scalars(step, scores)
                log.say(summary.evaluation(step, scores, best))
                if best is None or score > best["score"]:
                    best = {"score": score, "step": step}
                reader.pause()
            due = score is not None or step % config.checkpoint_every == 0 or last or stopped
            if store and due:
                run = described | {"step": step, "feed": feed.state(), "best": best}
                store.save(state, run, score)
        reader.drain()
    finally:
        # A failing run, too, finishes the save under way.
        if store:
            store.close()
        log.close()
        feed.close()
    checkpoint = store.last_good if store else None
    log.say(summary.end(step, num_steps, stopped, checkpoint, best, workdir))
    return TrainResult(step, checkpoint, stopped, scores)


def _dispatch_length(
    step: int, num_steps: int, together: int, config: Any, profile: tuple[int, int] | None
) -> int:
    """Returns how many steps the next dispatch takes: up to the next thing that needs a stop.

    It depends on the step only, so that resumed and uninterrupted runs dispatch alike.
    """
    stops = [num_steps, *(profile or ())]
    for every in (together, config.checkpoint_every, config.eval.every):
        if every:
            stops.append((step // every + 1) * every)
    return min(stop for stop in stops if stop > step) - step


def _make_feed(config: Any, mesh: jax.sharding.Mesh, saved: dict[str, Any] | None) -> Feed:
    from dmphn_jax.data import make_feed

    data = config.data.to_dict()
    if saved and data["feed"] == "auto":  # the two feeds deal crops differently
        data["feed"] = "host" if saved["feed_kind"] == "HostFeed" else "resident"
    return make_feed(
        data,
        mesh=mesh,
        seed=config.seed,
        batch_size=config.batch_size,
        crop_size=config.crop_size,
    )
