"""DMPHN, one unit: Tables 1 and 4.

    python -m dmphn_jax.main --config configs/dmphn.py:1-2-4-8

The argument is the hierarchy, patches per level from the coarsest; `-ws` shares one
encoder-decoder pair among the levels.

| argument   | PSNR  | SSIM   | GMAC per crop |
|------------|-------|--------|---------------|
| 1          | 28.70 | 0.9131 | 16.3          |
| 1-2        | 29.77 | 0.9286 | 32.6          |
| 1-1-1      | 28.11 | 0.9041 | 48.9          |
| 1-2-4      | 30.21 | 0.9345 | 48.9          |
| 1-4-16     | 29.15 | 0.9217 | 48.9          |
| 1-2-4-8    | 30.25 | 0.9351 | 65.1          |
| 1-2-4-8-16 | 29.87 | 0.9305 | 81.4          |
| 1-2-ws     | 29.22 | 0.9210 | 32.6          |
| 1-2-4-ws   | 29.56 | 0.9257 | 48.9          |
| 1-2-4-8-ws | 30.04 | 0.9318 | 65.1          |

Cost: 6 crops of 256 x 256 per step, 3000 epochs = 1.05 million steps. A step of 1-2-4 is 0.88 TMAC
(forward and backward), the run 0.92e18 MAC.
"""

from dmphn_jax.training.experiments import start_from


def get_config(hierarchy: str = "1-2-4"):
    return start_from("configs/base.py:dmphn_" + hierarchy.replace("-", "_"))
