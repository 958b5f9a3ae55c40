"""DMPHN with the modern recipe (see `modern.py`); beside it, the paper's recipe gives 30.21 dB.

    python -m dmphn_jax.main --config configs/modern_dmphn.py:1-2-4

The argument is the hierarchy, as of `dmphn.py`.

Cost: 4.7 TMAC per step of 32 crops of 256 x 256 for 1-2-4, 300,000 steps, 1.4e18 MAC.
"""

from dmphn_jax.training.experiments import start_from


def get_config(hierarchy: str = "1-2-4"):
    return start_from("configs/modern.py:dmphn_" + hierarchy.replace("-", "_"))
