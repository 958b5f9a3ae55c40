"""Stack(3)-DMPHN: 31.16 dB, SSIM 0.9451 in Table 1.

    python -m dmphn_jax.main --config configs/stack3.py

Begin with a shallower stack by `--config.init_from=runs/stack2/checkpoints/STEP`.

Cost: 146.6 GMAC per crop of 256 x 256, 2.64 TMAC per step of 6 crops (forward and backward),
3000 epochs = 1.05 million steps, 2.77e18 MAC.
"""

from dmphn_jax.training.experiments import start_from


def get_config():
    return start_from("configs/stack.py:3")
