"""Stack(2)-VMPHN, the paper's best: 31.50 dB, SSIM 0.9483 in Table 1.

    python -m dmphn_jax.main --config configs/stack2_vmphn.py

Begin with one VMPHN by `--config.init_from=runs/vmphn/checkpoints/STEP`.

Cost: 195.4 GMAC per crop of 256 x 256, 3.52 TMAC per step of 6 crops (forward and backward),
3000 epochs = 1.05 million steps, 3.69e18 MAC.
"""

from dmphn_jax.training.experiments import start_from


def get_config():
    return start_from("configs/stack.py:2_vmphn")
