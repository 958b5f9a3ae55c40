"""The paper's tables in miniature: any model at width 16 on synthetic scenes, on two CPU cores.

    python -m dmphn_jax.main --config configs/miniature.py:dmphn_1_2_4
    python -m dmphn_jax.main --config configs/miniature.py:modern_dmphn_1_2_4
    python tools/miniature.py                # every row of the tables: docs/miniature.md

The argument is a model's name, as `dmphn models` lists them, with `modern_` before it for the
modern recipe. All rows see the same scenes, crops and number of steps. The paper's recipe keeps its
loss, batch and optimiser. A run 350 times shorter needs a higher learning rate, five times the
paper's, the highest at which all stacks came through, and a schedule of its own: with three thirds
of the run, as in the paper, learning stops at the first decay (docs/miniature.md has the figures),
so the rate falls to a tenth once, for the last sixth.

Cost: 6 crops of 64 x 64 per step, 3000 steps. A step of DMPHN(1-2-4) is 14 GMAC (forward and
backward), of Stack(4) four times that.
"""

from dmphn_jax.training.experiments import start_from

_MODERN = "modern_"


def get_config(row: str = "dmphn_1_2_4"):
    modern = row.startswith(_MODERN)
    recipe = "modern" if modern else "base"
    config = start_from(f"configs/{recipe}.py:{row.removeprefix(_MODERN)}")
    config.model.width = 16
    config.compute_dtype = "float32"
    config.data.source = "synthetic"
    config.data.size = (256, 256)
    config.data.count = 600
    config.crop_size = 64
    config.batch_size = 6
    config.num_epochs = 30  # of 100 steps
    config.num_steps = 0
    if modern:
        config.optimizer.warmup_steps = 100
        config.ema_decay = 0.99
    else:
        config.optimizer.learning_rate = 5e-4
        config.optimizer.decay_epochs = 25
    config.checkpoint_every = 500
    config.keep_checkpoints = 1
    config.log_every = 100
    config.eval.every = 500
    config.eval.pictures = 0
    return config
