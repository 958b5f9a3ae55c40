"""Stack(4)-DMPHN: 31.20 dB, SSIM 0.9453 in Table 1.

    python -m dmphn_jax.main --config configs/stack4.py

Begin with a shallower stack by `--config.init_from=runs/stack3/checkpoints/STEP`.

Cost: 195.4 GMAC per crop of 256 x 256, 3.52 TMAC per step of 6 crops (forward and backward),
3000 epochs = 1.05 million steps, 3.69e18 MAC.
"""

from dmphn_jax.training.experiments import start_from


def get_config():
    return start_from("configs/stack.py:4")
