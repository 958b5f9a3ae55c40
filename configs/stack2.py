"""Stack(2)-DMPHN: 30.71 dB, SSIM 0.9403 in Table 1.

    python -m dmphn_jax.main --config configs/stack2.py

Begin with a shallower stack by `--config.init_from=runs/dmphn-1-2-4/checkpoints/STEP`.

Cost: 97.7 GMAC per crop of 256 x 256, 1.76 TMAC per step of 6 crops (forward and backward),
3000 epochs = 1.05 million steps, 1.85e18 MAC.
"""

from dmphn_jax.training.experiments import start_from


def get_config():
    return start_from("configs/stack.py:2")
