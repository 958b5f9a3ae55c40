"""A stack of N units: Table 1, Sec. 3.3.

    python -m dmphn_jax.main --config configs/stack.py:3

The argument is N, or N and a unit that `dmphn models` spells: `2_dmphn_1_2`. The paper's stacks
have files of their own: `stack2.py`, `stack3.py`, `stack4.py`, `stack2_vmphn.py`.

The loss is the sum over the stages (Eq. 11). As in the authors' code, crops are turned by quarter
turns and their saturation varies by U[0.8, 1.2]; single models are not augmented.

Stages may be grown: `--config.init_from=runs/stack2/checkpoints/STEP` begins a deeper stack with
a shallower one's weights, the new stages with copies of its last (`--config.init_missing=random`
with random ones). The authors' own weights serve as well, after `dmphn convert`.

Cost: 48.9 GMAC per stage and crop of 256 x 256; 6 crops per step, 3000 epochs = 1.05 million steps.
"""

from dmphn_jax.training.experiments import start_from


def get_config(argument: str = "4"):
    config = start_from(f"configs/base.py:stack{argument}")
    config.augment = "stack"
    return config
