"""A demonstration: a small network on synthetic scenes, minutes on two CPU cores.

    python -m dmphn_jax.main --config configs/demo.py        # or: make demo

DMPHN(1-2) at width 8 learns the residual (global skip) from crops of 64 x 64. No figure of the
paper's: on held-out scenes it gains more than 1 dB over the blurry input.

Cost: 0.14 GMAC per crop, 3.5 GMAC per step of 8 (forward and backward), 400 steps.
"""

from configs import base


def get_config():
    config = base.get_config("dmphn_1")
    config.model.width = 8
    config.model.global_skip = True
    config.data.source = "synthetic"
    config.data.size = (128, 128)
    config.data.count = 120
    config.crop_size = 64
    config.batch_size = 8
    config.augment = "modern"
    config.loss.name = "charbonnier"
    config.optimizer.learning_rate = 4e-3
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_steps = 20
    config.optimizer.clip_norm = 1.0
    config.ema_decay = 0.99
    config.num_steps = 900
    config.checkpoint_every = 300
    config.log_every = 50
    config.eval.every = 300
    config.eval.count = 24
    return config
