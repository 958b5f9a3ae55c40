"""DMSN, the multi-scale baseline of Table 2.

    python -m dmphn_jax.main --config configs/dmsn.py:3

The argument is the number of scales; every scale is supervised.

| argument | PSNR  | SSIM   | GMAC per crop |
|----------|-------|--------|---------------|
| 1        | 28.70 | 0.9131 | 16.3          |
| 2        | 28.82 | 0.9156 | 20.4          |
| 3        | 28.97 | 0.9178 | 21.4          |

Cost: 6 crops of 256 x 256 per step, 3000 epochs = 1.05 million steps. A step of 3 scales is
0.38 TMAC (forward and backward), the run 0.40e18 MAC.
"""

from dmphn_jax.training.experiments import start_from


def get_config(scales: str = "3"):
    return start_from(f"configs/base.py:dmsn_{scales}")
