"""The training step against plain arithmetic, and what a run writes, keeps and refuses."""

from __future__ import annotations

import csv
import errno
import json
import os
import signal
import struct
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tensorboardX.proto.event_pb2 import Event

from dmphn_jax import checkpoints
from dmphn_jax.checkpoints import items
from dmphn_jax.errors import UserError
from dmphn_jax.inference.deblurrer import Deblurrer
from dmphn_jax.models import ModelConfig, init_params
from dmphn_jax.models.output import Output
from dmphn_jax.runtime import data_mesh
from dmphn_jax.training import events, periodic, settings
from dmphn_jax.training.checkpoints import chosen_checkpoint
from dmphn_jax.training.initialize import initial_params
from dmphn_jax.training.loop import train
from dmphn_jax.training.metrics_reader import DivergedError
from dmphn_jax.training.optimizer import make_optimizer
from dmphn_jax.training.prepare import pairs_of
from dmphn_jax.training.run_log import Meter, RunLog, duration
from dmphn_jax.training.state import init_state
from dmphn_jax.training.step import StepOptions, ema_rate, make_train_step
from tests.support.training import ArrayFeed, Pairs, batch_of, differing, tiny_config

pytestmark = pytest.mark.usefixtures("compiled_once")


class TwoStages:
    """A network of two stages, each one product per channel: compiles in no time."""

    params: ClassVar = {"stage_1": np.float32([0.5, 1, 2]), "stage_2": np.float32([1, 0.5, 1])}

    def apply(self, variables, x):
        params = variables["params"]
        first = x * params["stage_1"]
        second = first * params["stage_2"]
        return Output((first, second), ((first,), (second,)), ())


def step_of(config, **options):
    """(step function, fresh state, feed) of a config, for `TwoStages`."""
    mesh = data_mesh()
    feed = ArrayFeed(config, mesh)
    tx, schedule = make_optimizer(config.optimizer, 5, config.num_steps)
    step = make_train_step(
        TwoStages(),
        tx,
        schedule,
        feed.crops,
        mesh,
        StepOptions(
            accumulate_steps=config.optimizer.accumulate_steps,
            ema_decay=config.ema_decay,
            **options,
        ),
    )
    return step, init_state(TwoStages.params, tx, mesh, ema=config.ema_decay > 0), feed


def run(config, workdir, **options):
    feed = ArrayFeed(config, data_mesh(), **options)
    return train(config, workdir, feed=feed)


def test_the_step_is_the_papers_arithmetic():
    """Sum over stages of MSE on x/255 - 0.5, Adam, and the average of the weights."""
    config = tiny_config(ema_decay=0.5)
    step, state, feed = step_of(config)
    network, params = TwoStages(), TwoStages.params

    def loss(params, blurry, sharp):
        output = network.apply({"params": params}, blurry / 255 - 0.5)
        return sum(jnp.mean((image - (sharp / 255 - 0.5)) ** 2) for image in output.stages)

    adam = optax.adam(config.optimizer.learning_rate)
    opt_state, average = adam.init(params), params
    gradient_of = jax.jit(jax.value_and_grad(loss))
    losses = []
    for i in range(2):
        blurry, sharp = batch_of(i, config).astype(np.float32)
        value, gradient = gradient_of(params, blurry, sharp)
        updates, opt_state = adam.update(gradient, opt_state)
        params = optax.apply_updates(params, updates)
        rate = min(0.5, (1 + i) / (10 + i))
        average = jax.tree.map(lambda a, p, r=rate: r * a + (1 - r) * p, average, params)
        losses.append(float(value))
    got_losses = []
    for _ in range(2):
        state, metrics = step(state, feed.resident, feed.next(1))
        got_losses += list(metrics["loss"])
    np.testing.assert_allclose(got_losses, losses, rtol=1e-5)
    # Adam's first steps amplify rounding of gradients near zero: compare against the step size.
    for got, wanted in ((state.params, params), (state.ema, average)):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=3e-5), got, wanted)
    assert int(state.step) == 2
    assert set(metrics) >= {"psnr_stage_1", "psnr_stage_2", "gradient_norm", "learning_rate"}


def test_steps_of_one_dispatch_equal_single_dispatches():
    config = tiny_config()
    step, state, feed = step_of(config, recipe="stack")
    together, metrics = step(state, None, feed.next(2))
    assert metrics["loss"].shape == (2,)
    step, state, feed = step_of(config, recipe="stack")
    for _ in range(2):
        state, last = step(state, None, feed.next(1))
    np.testing.assert_allclose(metrics["loss"][1], last["loss"][0], rtol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), together.params, state.params
    )


def test_bfloat16_and_recomputation_train_float32_parameters(tmp_path):
    config = tiny_config(compute_dtype="bfloat16", remat=True, num_steps=2, checkpoint_every=2)
    result = run(config, tmp_path)
    loaded = checkpoints.load(result.checkpoint)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(loaded.params)} == {"float32"}
    assert differing(loaded.params, init_params(loaded.config))


def test_a_layout_changes_the_last_digits_only(tmp_path):
    made = []
    for layout in ("xla", "folded"):
        config = tiny_config(layout=layout, num_steps=1, checkpoint_every=1)
        config.optimizer.epsilon = 1e-3  # Adam turns the sign of a rounding error into a step
        made.append(checkpoints.load(run(config, tmp_path / layout).checkpoint).params)
    assert differing(*made)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), *made)


def test_gradients_accumulate_over_steps():
    """Two steps of a batch make the update of their mean gradient; the average waits too."""
    config = tiny_config(optimizer__accumulate_steps=2, ema_decay=0.5)
    step, state, feed = step_of(config)
    first = jax.device_get(state.params)
    state, _ = step(state, None, feed.next(1))
    assert not differing(state.params, first)
    assert not differing(state.ema, first)
    state, _ = step(state, None, feed.next(1))
    assert differing(state.params, first)
    assert differing(state.ema, first)


def test_the_average_forgets_the_initial_weights():
    assert ema_rate(0.999, 0) == pytest.approx(0.1)
    assert ema_rate(0.999, 10**6) == pytest.approx(0.999)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, compiled_once):
    """A finished run with evaluations and an average of the weights."""
    folder = tmp_path_factory.mktemp("run")
    config = tiny_config(eval__every=2, keep_checkpoints=1)
    feed = ArrayFeed(config, data_mesh())
    return config, folder, train(config, folder, feed=feed, test_source=Pairs())


def test_a_run_writes_its_metrics_and_pictures(finished):
    config, folder, result = finished
    assert (result.step, result.stopped) == (8, None)
    rows = list(csv.DictReader((folder / "metrics.csv").open()))
    trained = [row for row in rows if row["loss"]]
    assert [int(row["step"]) for row in trained] == [2, 4, 6, 8]
    assert [float(row["epoch"]) for row in trained] == [0.4, 0.8, 1.2, 1.6]
    assert float(trained[-1]["loss"]) < float(trained[0]["loss"])
    evaluated = [row for row in rows if row["eval_psnr"]]
    assert [int(row["step"]) for row in evaluated] == [2, 4, 6, 8]
    assert float(evaluated[-1]["eval_psnr"]) == pytest.approx(result.scores["eval_psnr"])
    assert float(evaluated[0]["eval_psnr_blurry"]) == pytest.approx(16.8, abs=0.5)
    written = b"".join(path.read_bytes() for path in (folder / "tensorboard").iterdir())
    for tag in (b"train/loss", b"eval/psnr", b"optimizer/learning_rate", b"optimizer/gradient"):
        assert tag in written
    assert b"blurry_output_sharp/scene/000" in written
    assert "stage_1/level_1/decoder/conv/bias" in (folder / "model.txt").read_text()
    written = json.loads((folder / "config.json").read_text())
    assert written == settings.flat(config) | {"num_steps": 8}


def test_the_newest_and_the_best_checkpoint_are_kept_and_load_as_models(finished):
    _, folder, result = finished
    rows = csv.DictReader((folder / "metrics.csv").open())
    scores = {int(row["step"]): float(row["eval_psnr"]) for row in rows if row["eval_psnr"]}
    best = max(scores, key=scores.get)
    kept = {int(p.name) for p in (folder / "checkpoints").iterdir() if p.name.isdigit()}
    assert kept == {best, 8}
    assert chosen_checkpoint(folder / "checkpoints").name == str(best)
    loaded = checkpoints.load(result.checkpoint)
    assert loaded.config == ModelConfig("dmphn", "1", width=2)
    assert loaded.info["step"] == 8
    assert loaded.info["ema"] is True


def test_nan_stops_the_run_and_names_the_step_and_the_last_good_checkpoint(tmp_path):
    with pytest.raises(DivergedError, match=r"step 7; the last good checkpoint is \S+/4; lower"):
        run(tiny_config(), tmp_path, poison=6)  # steps count from 1
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["4"]


def test_nan_in_the_last_step_before_a_save_is_not_saved(tmp_path):
    with pytest.raises(DivergedError, match=r"step 4; no checkpoint yet"):
        run(tiny_config(), tmp_path, poison=3)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP"])
def test_being_asked_to_stop_saves_and_ends(tmp_path, name, capsys):
    number = signal.Signals[name]

    def ask(step):
        if step == 4:
            os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    result = run(tiny_config(), tmp_path, on_step=ask)
    assert (result.step, result.stopped) == (5, name)
    assert result.checkpoint.name == "5"
    assert f"{name} at step 5: saved" in capsys.readouterr().out
    assert signal.getsignal(number) is before
    assert run(tiny_config(), tmp_path).step == 8


def test_being_asked_to_stop_in_an_evaluation_saves_that_step_and_ends(finished, tmp_path, capsys):
    """The evaluation is left without a score; all else is as if nothing had been."""
    read = []

    class Many(Pairs):
        def __getitem__(self, index):
            read.append(index)
            if len(read) == 3:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().__getitem__(index)

    config = tiny_config(eval__every=4, eval__count=0, checkpoint_every=100)
    pairs = Many(count=1000)
    for step, stopped in ((4, "SIGTERM"), (8, None)):
        feed = ArrayFeed(config, data_mesh())
        result = train(config, tmp_path, feed=feed, test_source=pairs)
        assert (result.step, result.stopped) == (step, stopped)
        if stopped:
            assert len(read) < 200
            assert result.scores == {}
            said = capsys.readouterr().out
            assert "evaluation at step 4: left out at SIGTERM" in said
            assert "SIGTERM at step 4: saved" in said
            pairs = Pairs()
    assert result.scores
    _, whole, _ = finished
    (a, b) = (
        items.read_record(folder / "checkpoints" / "8", "run") for folder in (whole, tmp_path)
    )
    assert a["digest"] == b["digest"]
    assert a["feed"] == b["feed"]


def test_a_deeper_stack_begins_with_a_shallower_ones_stages(tmp_path):
    unit, deep = ModelConfig("dmphn", "1", 1, width=2), ModelConfig("dmphn", "1", 3, width=2)
    params = init_params(unit, seed=5)
    checkpoints.save(tmp_path / "one", params, unit)
    grown, origin = initial_params(deep, init_from=str(tmp_path / "one"))
    assert [not differing(grown[f"stage_{s}"], params["stage_1"]) for s in (1, 2, 3)] == [True] * 3
    assert "stage 2 to 3: copies of stage 1" in origin
    grown, _ = initial_params(deep, seed=1, init_from=str(tmp_path / "one"), missing="random")
    assert not differing(grown["stage_1"], params["stage_1"])
    assert not differing(grown["stage_2"], init_params(deep, seed=1)["stage_2"])
    checkpoints.save(tmp_path / "three", grown, deep)
    cut, _ = initial_params(unit, init_from=str(tmp_path / "three"))
    assert not differing(cut["stage_1"], params["stage_1"])
    with pytest.raises(UserError, match=r"has hierarchy = '1', config.model asks for '1-2'"):
        initial_params(ModelConfig("dmphn", "1-2", width=2), init_from=str(tmp_path / "one"))


def test_a_stack_has_a_column_per_stage_and_rows_after_the_resume_are_dropped(tmp_path):
    log = RunLog(tmp_path, stages=2)
    for step in (2, 4):
        log.scalars(step, {"loss": 1.0, "psnr_stage_1": 20.0, "psnr_stage_2": 21.0})
    log.close()
    with (tmp_path / "metrics.csv").open("a") as file:
        file.write("6,1.2,0.")  # a kill leaves half a row
    RunLog(tmp_path, resumed=2, stages=2).close()
    rows = list(csv.DictReader((tmp_path / "metrics.csv").open()))
    assert [(row["step"], row["psnr_stage_2"]) for row in rows] == [("2", "21")]


def test_a_log_that_cannot_be_begun_leaves_nothing(tmp_path):
    (tmp_path / "metrics.csv").mkdir()  # no file can take its place
    with pytest.raises(UserError, match=f"{tmp_path}: cannot be written: "):
        RunLog(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.csv"]


def test_a_log_that_cannot_be_written_is_one_line(tmp_path, monkeypatch):
    """TensorBoard's file too: written by a thread it would fail unheard, and block the run."""

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    log = RunLog(tmp_path)
    monkeypatch.setattr(log._events._file, "flush", full)
    with pytest.raises(UserError, match=f"{tmp_path}: cannot be written: No space left on device"):
        log.scalars(2, {"loss": 1.0})
    log.close()


def records(file):
    """The events of a file: length and its sum, 12 bytes, the event, 4 bytes of its sum."""
    data = file.read_bytes()
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        yield Event.FromString(data[12 : 12 + length])
        data = data[12 + length + 4 :]


def test_an_event_file_is_ended_before_it_is_large_and_nothing_is_lost(tmp_path, monkeypatch):
    """A bucket takes files whole: one file for a whole run would be sent over and over."""
    monkeypatch.setattr(events, "LARGEST", 1000)
    written = events.EventFiles(tmp_path, resumed=100)
    before = {}
    for step in range(101, 200):
        written.scalar("loss", 0.5, step)
        written.flush()
        *ended, _ = sorted(tmp_path.iterdir())
        assert all(before.get(file, data) == data for file, data in read(ended).items())
        before |= read(ended)
    written.close()
    files = sorted(tmp_path.iterdir())  # TensorBoard reads them in this order
    assert len(files) > 2
    assert max(file.stat().st_size for file in files) < 1200
    found = [event for file in files for event in records(file)]
    assert [e.step for e in found if e.HasField("summary")] == list(range(101, 200))
    # Only the first says where the run goes on: the others take nothing back.
    assert [e.step for e in found if e.HasField("session_log")] == [101]
    assert [next(records(file)).file_version for file in files] == ["brain.Event:2"] * len(files)


def read(files):
    return {file: file.read_bytes() for file in files}


def test_the_weights_stay_on_the_device_for_an_evaluation(tmp_path, monkeypatch):
    config = tiny_config(eval__every=2, eval__pictures=0)
    model = settings.model_of(config)
    params = jax.device_put(init_params(model))
    taken = []

    def recorded(*, params, config):
        taken.extend(jax.tree.leaves(params))
        return Deblurrer(params=params, config=config)

    monkeypatch.setattr(periodic, "Deblurrer", recorded)
    log = RunLog(tmp_path)
    evaluation = periodic.PeriodicEvaluation(Pairs(), pairs_of(config), model, pictures=0, log=log)
    score, best = evaluation(params, 2, None)
    log.close()
    assert best == {"score": score, "step": 2}
    assert all(isinstance(leaf, jax.Array) for leaf in taken)
    # Copies: the next step takes the state's own buffers.
    for mine, its in zip(taken, jax.tree.leaves(params), strict=True):
        assert mine.unsafe_buffer_pointer() != its.unsafe_buffer_pointer()


def test_the_meter_gives_means_and_the_last_learning_rate():
    meter = Meter(batch_size=4)
    meter.tick(2)
    meter.add({"loss": np.array([1.0, 3.0]), "learning_rate": np.array([0.1, 0.2])})
    assert meter.read() == {"loss": 2.0, "learning_rate": 0.2}


def test_durations_read_as_people_say_them():
    said = [duration(s) for s in (40, 12 * 60, 2 * 3600 + 300, 76 * 3600, float("nan"))]
    assert said == ["40 s", "12 min", "2 h 05 min", "3 d 4 h", "unknown"]
