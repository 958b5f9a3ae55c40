"""Evaluation during training: the code of `dmphn evaluate` on a subset of the test pairs."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from dmphn_jax.data.base import PairSource
from dmphn_jax.evaluation.scoring import Blurry, evaluate_params
from dmphn_jax.inference.deblurrer import Deblurrer
from dmphn_jax.models import ModelConfig
from dmphn_jax.training.run_log import RunLog


class PeriodicEvaluation:
    """Scores the weights of a run on evenly spread pairs of a source; in process 0 only."""

    def __init__(self, source: PairSource, config: ModelConfig, *, count: int, pictures: int):
        """Chooses the pairs.

        Args:
          source: test pairs.
          config: the model.
          count: pairs to score; 0 for all.
          pictures: of them shown as blurry, output, sharp.
        """
        self._source = source
        self._config = config
        count = min(count or len(source), len(source))
        self.indices = [int(i) for i in np.linspace(0, len(source) - 1, count).round()]
        self._pictures = self.indices[:pictures]
        self._blurry: float | None = None

    def __call__(self, params: Any, step: int, log: RunLog) -> dict[str, float]:
        """Returns the mean scores of `params` as `eval_<metric>`; writes pictures to the log.

        The input's own PSNR, `eval_psnr_blurry`, stands beside them.
        """
        # Copies: on a CPU a view of the state would change with the next step.
        params = jax.tree.map(np.array, jax.device_get(params))
        deblurrer = Deblurrer(params=params, config=self._config)
        if self._blurry is None:
            blurry = evaluate_params(Blurry(), self._source, indices=self.indices)
            self._blurry = blurry.mean["psnr"]

        def show(scores: Any, output: np.ndarray) -> None:
            if scores.index in self._pictures:
                pair = self._source[scores.index]
                log.triptych(step, pair.name, (pair.blurry, output, pair.sharp))

        result = evaluate_params(
            deblurrer, self._source, indices=self.indices, on_image=show, on_failure=log.say
        )
        scores = {f"eval_{name}": value for name, value in result.mean.items()}
        return {**scores, "eval_psnr_blurry": self._blurry}
