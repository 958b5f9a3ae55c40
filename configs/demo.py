"""A demonstration: a small network on synthetic scenes, minutes on two CPU cores.

    python -m dmphn_jax.main --config configs/demo.py        # or: make demo

DMPHN(1-2) at width 16 learns the residual (global skip) from crops of 32 x 32. The scenes move a
third as far as the default ones, which is what so small a network learns to undo in minutes. No
figure of the paper's: on held-out scenes it gains more than 1 dB over the blurry input.

Cost: 0.13 GMAC per crop, 3.1 GMAC per step of 8 (forward and backward), 500 steps.
"""

from dmphn_jax.training.experiments import start_from


def get_config():
    config = start_from("configs/base.py:dmphn_1_2")
    config.model.width = 16
    config.model.global_skip = True
    config.data.source = "synthetic"
    config.data.size = (128, 128)
    config.data.count = 120
    config.data.motion = 0.3
    config.crop_size = 32
    config.batch_size = 8
    config.augment = "modern"
    config.loss.name = "charbonnier"
    config.optimizer.learning_rate = 3e-3
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_steps = 20
    config.optimizer.clip_norm = 1.0
    config.ema_decay = 0.99
    config.num_steps = 500
    config.checkpoint_every = 250
    config.log_every = 50
    config.eval.every = 250
    config.eval.count = 24
    return config
