"""Every experiment of `configs/`: it reads, it names its model, and it trains a step."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dmphn_jax.data.augment import augment
from dmphn_jax.data.synthetic import SyntheticScenes
from dmphn_jax.models import build, init_params, zoo
from dmphn_jax.training import settings
from dmphn_jax.training.experiments import start_from
from dmphn_jax.training.losses import training_loss
from dmphn_jax.training.optimizer import OptimizerOptions, make_optimizer

ROOT = Path(__file__).resolve().parent.parent
# Every row of Tables 1, 2 and 4, by the config that trains it.
PAPER = {
    **{
        f"configs/dmphn.py:{name[6:].replace('_', '-')}": name
        for name in zoo.ZOO
        if "dmphn_" in name
    },
    "configs/stack2.py": "stack2",
    "configs/stack3.py": "stack3",
    "configs/stack4.py": "stack4",
    "configs/vmphn.py": "vmphn",
    "configs/stack2_vmphn.py": "stack2_vmphn",
    **{f"configs/dmsn.py:{n}": f"dmsn_{n}" for n in (1, 2, 3)},
}
# Every file as it stands, whatever its argument is by default; base.py is what they share.
FILES = sorted(
    f"configs/{path.name}" for path in (ROOT / "configs").glob("*.py") if path.name != "base.py"
)
OTHERS = ["configs/stack.py:3", "configs/modern.py:vmphn", "configs/modern_dmphn.py:1-2-4-8"]
OTHERS += ["configs/miniature.py:stack2", "configs/miniature.py:modern_dmphn_1_2_4"]


def test_every_row_of_the_paper_has_a_config():
    assert set(PAPER.values()) == set(zoo.ZOO)


def test_the_docs_list_every_experiment():
    page = (ROOT / "docs" / "training.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("| `configs/")]
    listed = {f"configs/{name}" for name in re.findall(r"(\w+\.py)", "".join(rows))}
    assert listed == set(FILES)


@pytest.mark.parametrize("path", [*FILES, *sorted({*PAPER, *OTHERS} - {*FILES})])
def test_a_config_reads_and_its_docstring_gives_the_command(path):
    config = settings.read(path, [])
    settings.check(config)
    name = path.partition(":")[0]
    text = (ROOT / name).read_text()
    assert f"--config {name}" in text
    assert "Cost:" in text


@pytest.mark.parametrize("path", PAPER)
def test_a_papers_config_is_the_papers_recipe_and_quotes_its_figures(path):
    config = settings.read(path, [])
    entry = zoo.ZOO[PAPER[path]]
    assert settings.model_of(config) == entry.config
    text = (ROOT / path.partition(":")[0]).read_text()
    assert f"{entry.psnr:.2f}" in text
    assert f"{entry.ssim:.4f}" in text
    assert (config.crop_size, config.batch_size, config.num_epochs) == (256, 6, 3000)
    assert (config.optimizer.learning_rate, config.optimizer.decay_epochs) == (1e-4, 1000)
    assert (config.loss.name, config.ema_decay, config.compute_dtype) == ("mse", 0, "float32")
    assert config.augment == ("stack" if entry.config.stages > 1 else "none")


@pytest.mark.parametrize("path", PAPER)
def test_a_papers_config_trains_a_step_at_full_width(path):
    """Crops of the least size; not compiled as a whole, which would take minutes for all."""
    config = settings.read(path, [])
    model = settings.model_of(config)
    size = 16  # one size for all, so that they share the compiled operations
    scene = SyntheticScenes(size=(32, 32), count=1)[0]
    images = (jnp.asarray(side[None, :size, :size]) for side in (scene.blurry, scene.sharp))
    blurry, sharp = augment(jax.random.key(0), *images, config.augment)
    network, params = build(model), init_params(model)

    def loss(params):
        output = network.apply({"params": params}, blurry - 0.5)
        return training_loss(output, sharp - 0.5, loss=config.loss.name, levels=config.loss.levels)

    value, gradient = jax.value_and_grad(loss)(params)
    assert np.isfinite(value)
    # Every parameter learns, save a bias or two whose gradient may vanish by chance.
    still = [np.asarray(leaf).any() for leaf in jax.tree.leaves(gradient)].count(False)
    assert still == 0
    tx, _ = make_optimizer(config.optimizer, 350, 1000)
    kernel = {"kernel": jax.tree.leaves(params)[1]}
    updates, _ = tx.update({"kernel": jax.tree.leaves(gradient)[1]}, tx.init(kernel), kernel)
    # Adam's first step has the learning rate's size.
    assert float(optax.tree.norm(updates, ord=jnp.inf)) == pytest.approx(1e-4, rel=0.05)


def test_the_base_config_names_the_optimisers_fields_and_defaults():
    defaults = dataclasses.asdict(OptimizerOptions())
    assert start_from("configs/base.py").optimizer.to_dict() == defaults


def test_width_and_skip_reach_the_model():
    config = settings.read("configs/demo.py", ["--config.model.width=16"])
    model = settings.model_of(config)
    assert (model.width, model.global_skip) == (16, True)
    assert dataclasses.replace(model, width=32, global_skip=False) == zoo.get(config.model.name)
