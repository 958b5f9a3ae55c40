"""VMPHN, down and up again: 30.90 dB, SSIM 0.9419 in Table 1.

    python -m dmphn_jax.main --config configs/vmphn.py

Cost: 97.7 GMAC per crop of 256 x 256, 1.76 TMAC per step of 6 crops (forward and backward),
3000 epochs = 1.05 million steps, 1.85e18 MAC.
"""

from dmphn_jax.training.experiments import start_from


def get_config():
    return start_from("configs/base.py:vmphn")
