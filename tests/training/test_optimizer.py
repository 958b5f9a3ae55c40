import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dmphn_jax.errors import UserError
from dmphn_jax.training.optimizer import OptimizerOptions, make_optimizer, make_schedule


def step_lr(step, steps_per_epoch, base=1e-4, step_size=1000, gamma=0.1):
    """torch.optim.lr_scheduler.StepLR at the epoch of `step`: its chained form, epoch by epoch."""
    rate = base
    for epoch in range(1, step // steps_per_epoch + 1):
        if epoch % step_size == 0:
            rate *= gamma
    return rate


@pytest.mark.parametrize("steps_per_epoch", [1, 7, 350])
def test_the_papers_schedule_is_step_lr(steps_per_epoch):
    schedule = make_schedule({}, steps_per_epoch)
    for epoch in (0, 1, 500, 999, 1000, 1001, 1999, 2000, 2999, 3000, 3999):
        for step in (epoch * steps_per_epoch, epoch * steps_per_epoch + steps_per_epoch - 1):
            want = step_lr(step, steps_per_epoch)
            assert float(schedule(step)) == pytest.approx(want, rel=1e-6)
            assert float(jax.jit(schedule)(step)) == pytest.approx(want, rel=1e-6)


def test_cosine_with_warm_up():
    config = {
        "schedule": "cosine",
        "warmup_steps": 10,
        "final_fraction": 0.01,
        "learning_rate": 2e-4,
    }
    rate = [float(r) for r in jax.vmap(make_schedule(config, 5, 111))(jnp.arange(120))]
    np.testing.assert_allclose(rate[:11], 2e-4 * np.arange(1, 12) / 11, rtol=1e-6)
    assert rate[10] == max(rate)
    # Half way down the half wave, and at its end from the last step on.
    assert rate[60] == pytest.approx(2e-4 * (0.01 + 0.99 / 2), rel=1e-5)
    assert rate[110] == pytest.approx(2e-6, rel=1e-4)
    assert rate[119] == rate[110]
    assert all(a > b for a, b in itertools.pairwise(rate[10:111]))


@pytest.mark.parametrize("warmup", [0, 10])
@pytest.mark.parametrize("name", ["step", "cosine", "constant"])
def test_optax_gives_what_the_formulas_say(name, warmup):
    """The rate at step s: a rise (s + 1) / (warmup + 1), times what is left of the highest."""
    config = {"schedule": name, "warmup_steps": warmup, "decay_epochs": 7, "final_fraction": 0.1}
    steps = np.arange(200)
    left = {
        "step": 0.1 ** (steps // (5 * 7)),
        "cosine": 0.1
        + 0.9 * (1 + np.cos(np.pi * np.clip((steps - warmup) / (149 - warmup), 0, 1))) / 2,
        "constant": np.ones(200),
    }[name]
    want = 1e-4 * np.minimum(1, (steps + 1) / (warmup + 1)) * left
    rate = jax.vmap(make_schedule(config, 5, 150))(jnp.asarray(steps))
    np.testing.assert_allclose(rate, want, rtol=2e-5)


def test_a_period_beyond_32_bits_is_laid_out():
    schedule = make_schedule({"decay_epochs": 2**31 - 1}, 1000)
    assert float(schedule(2**31 - 1)) == pytest.approx(1e-4)


def run(config, gradients, **kwargs):
    params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones((2,))}
    tx, schedule = make_optimizer(config, **{"steps_per_epoch": 2, **kwargs})
    state = tx.init(params)
    update = jax.jit(tx.update)
    history = [params]
    for g in gradients:
        updates, state = update(g, state, params)
        params = optax.apply_updates(params, updates)
        history.append(params)
    return history, schedule


def gradients(n, seed=0):
    rng = np.random.default_rng(seed)
    return [{"kernel": rng.normal(size=(2, 2)), "bias": rng.normal(size=(2,))} for _ in range(n)]


def adam(gradients, rates):
    """Kingma & Ba, algorithm 1, in float64."""
    p, m, v = np.ones((2, 2)), 0.0, 0.0
    for t, (g, rate) in enumerate(zip(gradients, rates, strict=True), 1):
        m = 0.9 * m + 0.1 * g
        v = 0.999 * v + 0.001 * g * g
        p = p - rate * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
    return p


def test_adam_at_the_scheduled_rate():
    g = gradients(8)
    history, schedule = run({"learning_rate": 0.1, "decay_epochs": 2}, g)
    rates = [0.1] * 4 + [0.01] * 4
    np.testing.assert_allclose([float(schedule(i)) for i in range(8)], rates, rtol=1e-6)
    want = adam([x["kernel"] for x in g], rates)
    np.testing.assert_allclose(history[-1]["kernel"], want, rtol=1e-5)


def test_accumulated_steps_are_one_update_of_their_mean():
    g = gradients(6)
    config = {"learning_rate": 0.1, "decay_epochs": 1, "accumulate_steps": 3}
    history, schedule = run(config, g)
    for before, after in ((0, 1), (1, 2), (3, 4), (4, 5)):
        np.testing.assert_array_equal(history[before]["kernel"], history[after]["kernel"])
    means = [np.mean([x["kernel"] for x in g[i : i + 3]], axis=0) for i in (0, 3)]
    # The rate is that of the step which completes each group.
    want = adam(means, [float(schedule(2)), float(schedule(5))])
    np.testing.assert_allclose(history[-1]["kernel"], want, rtol=1e-5)


def test_weight_decay_leaves_biases():
    zero = [{"kernel": np.zeros((2, 2)), "bias": np.zeros(2)}]
    config = {"name": "adamw", "learning_rate": 0.1, "weight_decay": 0.5}
    history, _ = run(config, zero)
    np.testing.assert_allclose(history[1]["kernel"], 1 - 0.1 * 0.5, rtol=1e-6)
    np.testing.assert_array_equal(history[1]["bias"], 1)


def test_clipping_is_by_the_global_norm():
    g = gradients(3)
    norm = [np.sqrt(sum(np.sum(x[k] ** 2) for k in x)) for x in g]
    clipped = [{k: x[k] * min(1, 0.5 / n) for k in x} for x, n in zip(g, norm, strict=True)]
    assert max(norm) > 0.5
    a, _ = run({"clip_norm": 0.5, "learning_rate": 0.1}, g)
    b, _ = run({"learning_rate": 0.1}, clipped)
    np.testing.assert_allclose(a[-1]["kernel"], b[-1]["kernel"], rtol=1e-5)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"learning_rat": 1},
            "no field config.optimizer.learning_rat .did you mean 'learning_rate'",
        ),
        ({"schedule": "cosin"}, "did you mean 'cosine'"),
        ({"name": "sgd"}, "one of adam, adamw"),
        ({"schedule": "cosine"}, "num_steps"),
        ({"schedule": "cosine", "warmup_steps": 100}, "warmup_steps = 100"),
        ({"accumulate_steps": 0}, "at least 1"),
        ({"weight_decay": 0.1}, "adamw"),
    ],
)
def test_mistakes_are_one_line(config, message):
    steps = 100 if "warmup_steps" in config else None
    with pytest.raises(UserError, match=message):
        make_optimizer(config, 2, steps)


def test_defaults_are_the_papers():
    tx, schedule = make_optimizer({}, steps_per_epoch=350)
    assert float(schedule(0)) == pytest.approx(1e-4)
    assert OptimizerOptions().accumulate_steps == 1
    assert tx.init({"a": jnp.zeros(2)})


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({}, "0.0001, times 0.1 after step 7,000 and every 7,000 more"),
        ({"decay_epochs": 2000}, "0.0001, times 0.1 after step 14,000"),
        ({"decay_epochs": 3000}, "0.0001 throughout: the first decay would be after step 21,000"),
        (
            {"schedule": "cosine", "warmup_steps": 50, "final_fraction": 0.1},
            "after a warm-up of 50 steps 0.0001, a cosine to 1e-05",
        ),
        ({"schedule": "constant"}, "0.0001 throughout"),
    ],
)
def test_words_say_what_the_rate_does(config, words):
    assert OptimizerOptions.of(config).in_words(7, 21_000) == words


@pytest.mark.parametrize("epochs", [1000, 1499, 1500, 2999, 3000])
def test_the_words_falls_are_the_schedules(epochs):
    config, num_steps = {"decay_epochs": epochs}, 3000 * 7
    words = OptimizerOptions.of(config).in_words(7, num_steps)
    rate = make_schedule(config, 7, num_steps)
    falls = [n for n in range(epochs * 7, num_steps, epochs * 7) if rate(n - 1) > rate(n)]
    assert ("throughout" in words) == (not falls)
    assert ("more" in words) == (len(falls) > 1)
    assert float(rate(num_steps - 1)) == pytest.approx(1e-4 * 0.1 ** len(falls), rel=1e-5)
