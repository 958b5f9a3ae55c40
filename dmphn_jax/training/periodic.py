"""Evaluation during training: the code of `dmphn evaluate` on the pairs of `config.eval`."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from dmphn_jax.data import SourceOptions
from dmphn_jax.data.base import PairSource
from dmphn_jax.evaluation.methods import Blurry
from dmphn_jax.evaluation.scores import ImageScores
from dmphn_jax.evaluation.scoring import score_pairs
from dmphn_jax.evaluation.selection import PairSelection
from dmphn_jax.inference.deblurrer import Deblurrer
from dmphn_jax.models import ModelConfig
from dmphn_jax.training.run_log import RunLog


def pairs_of(config: Any) -> PairSelection:
    """Returns the pairs of `config.eval`: those a run and `--mode evaluate` score."""
    source, count = config.eval.source or config.data.source, config.eval.count
    options = SourceOptions.of(config.data, records="", count=count or 32, seed=config.seed)
    return PairSelection(source, options=options, limit=count or None)


class PeriodicEvaluation:
    """Scores the weights of a run on the chosen pairs of a source; in process 0 only."""

    def __init__(
        self, source: PairSource, pairs: PairSelection, config: ModelConfig, *, pictures: int
    ):
        """Chooses the pairs.

        Args:
          source: test pairs.
          pairs: those of them to score.
          config: the model.
          pictures: of them shown as blurry, output, sharp.
        """
        self._source = source
        self._config = config
        self.indices = pairs.indices(source.names)
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
            blurry = score_pairs(Blurry(), self._source, indices=self.indices)
            self._blurry = blurry.mean["psnr"]

        def show(image: ImageScores, output: np.ndarray) -> None:
            if image.index in self._pictures:
                pair = self._source[image.index]
                log.triptych(step, pair.name, (pair.blurry, output, pair.sharp))

        result = score_pairs(
            deblurrer, self._source, indices=self.indices, on_image=show, on_failure=log.say
        )
        scores = {f"eval_{name}": value for name, value in result.mean.items()}
        return {**scores, "eval_psnr_blurry": self._blurry}
