"""The modern recipe for any model of the zoo; no figure of the paper's.

    python -m dmphn_jax.main --config configs/modern.py:dmphn_1_2_4_8

What later deblurring papers train with: the network learns the residual (global skip),
Charbonnier loss, AdamW at 5e-4 with warm-up and a cosine to 1e-7, gradients clipped, flips and
rotations, batches of 32, bfloat16 compute, and a moving average of the weights, which is what
evaluations and checkpoints show.

Cost: 32 crops of 256 x 256 per step, 300,000 steps: 1.5 times the crops of the paper's 3000
epochs of 6. `--config.batch_size` must be shared evenly by the devices.
"""

from dmphn_jax.training.experiments import start_from


def get_config(model: str = "dmphn_1_2_4"):
    config = start_from(f"configs/base.py:{model}")
    config.model.global_skip = True
    config.compute_dtype = "bfloat16"
    config.batch_size = 32
    config.augment = "modern"
    config.loss.name = "charbonnier"
    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 5e-4
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_steps = 2000
    config.optimizer.final_fraction = 2e-4
    config.optimizer.weight_decay = 1e-4
    config.optimizer.clip_norm = 1.0
    config.ema_decay = 0.999
    config.num_steps = 300_000
    config.checkpoint_every = 2000
    config.eval.every = 10_000
    return config
