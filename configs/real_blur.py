"""Real blur in miniature: DMPHN(1-2-4) on six pairs of GoPro's GOPR0372_07_00, on two CPU cores.

    python -m tfds_gopro.prepare gopro --source GOPRO_Large --allow-partial \
        --data-dir data/miniature
    python -m dmphn_jax.main --config configs/real_blur.py --config.optimizer.learning_rate=1e-3
    python -m dmphn_jax.main --config configs/real_blur.py --config.init_from=dmphn_1_2_4

GOPRO_Large holds those six alone: an epoch is then one step; more pairs make the run longer. From
scratch, or from released weights, which these crops and this rate cost 3.7 dB on unseen pairs
(docs/miniature.md; flags for pairs of your own: docs/training.md). The recipe is the paper's, its
schedule shortened as in configs/miniature.py; from scratch take a learning rate of 1e-3.

Cost: 6 crops of 64 x 64 per step, 1500 steps of 56 GMAC (forward and backward): six minutes.
"""

from dmphn_jax.training.experiments import start_from


def get_config(model: str = "dmphn_1_2_4"):
    config = start_from(f"configs/base.py:{model}")
    config.data.data_dir = "data/miniature"
    config.crop_size = 64
    config.batch_size = 6
    # An epoch of six pairs is one step.
    config.num_epochs = 1500
    config.optimizer.decay_epochs = 1250
    config.checkpoint_every = 250
    config.keep_checkpoints = 1
    config.eval.every = 250
    config.eval.pictures = 0
    return config
