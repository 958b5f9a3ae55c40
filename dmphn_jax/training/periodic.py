"""Evaluation during training: the code of `dmphn evaluate` on the pairs of `config.eval`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from dmphn_jax.data.base import PairSource
from dmphn_jax.evaluation.methods import Blurry
from dmphn_jax.evaluation.scores import ImageScores
from dmphn_jax.evaluation.scoring import score_pairs
from dmphn_jax.evaluation.selection import PairSelection
from dmphn_jax.inference.deblurrer import Deblurrer
from dmphn_jax.models import ModelConfig
from dmphn_jax.training import summary
from dmphn_jax.training.run_log import RunLog
from dmphn_jax.training.state import local_copy


class PeriodicEvaluation:
    """Scores the weights of a run on the chosen pairs of a source; in process 0 only.

    Attributes:
      indices: of the pairs.
      scores: the last evaluation's means as `eval_<metric>`, and `eval_psnr_blurry`, the input's;
        empty if none of its pairs could be scored.
      left: the signal that broke off the last one, None if it came to its end.
    """

    def __init__(
        self,
        source: PairSource,
        pairs: PairSelection,
        model: ModelConfig,
        *,
        pictures: int,
        log: RunLog,
        asked: Callable[[], str | None] = lambda: None,
    ) -> None:
        """Chooses the pairs.

        Args:
          source: test pairs.
          pairs: those of them to score.
          model: what is trained.
          pictures: of them shown as blurry, output, sharp.
          log: gets the scores, the pictures and a line.
          asked: returns the signal that asks the run to stop, None if none has come.
        """
        self._source = source
        self._model = model
        self._log = log
        self._asked = asked
        self.indices = pairs.indices(source.names)
        self._pictures = self.indices[:pictures]
        self._blurry: float | None = None
        self.scores: dict[str, float] = {}
        self.left: str | None = None

    def __call__(
        self, params: Any, step: int, best: dict[str, Any] | None
    ) -> tuple[float | None, dict[str, Any] | None]:
        """Scores `params`, on the devices they are on; returns the PSNR and the new best.

        `best` is {"score", "step"} of the best evaluation so far, None if there is none. A PSNR
        that is no finite number, as where no pair can be scored, is None and no best.
        """
        self.left = None
        params = local_copy(params)  # the state itself is given to the next step
        try:
            scores = self._scored(Deblurrer(params=params, config=self._model), step)
        except _AskedToStop as asked:
            self.left = str(asked)
            self._log.say(f"evaluation at step {step:,}: left out at {asked}")
            return None, best
        self.scores = scores
        if not scores:
            self._log.say(summary.failed_evaluation(step, len(self.indices)))
            return None, best
        self._log.scalars(step, scores)
        self._log.say(summary.evaluation(step, scores, best))
        score = scores["eval_psnr"]
        if not math.isfinite(score):  # infinite where a pair's images are equal: nothing beats it
            return None, best
        if best is None or score > best["score"]:
            best = {"score": score, "step": step}
        return score, best

    def _scored(self, deblurrer: Deblurrer, step: int) -> dict[str, float]:
        """Returns `scores` of a network; raises _AskedToStop if asked to stop meanwhile."""

        def show(image: ImageScores, output: np.ndarray) -> None:
            if image.index in self._pictures:
                pair = self._source[image.index]
                self._log.triptych(step, pair.name, (pair.blurry, output, pair.sharp))

        result = score_pairs(
            deblurrer,
            self._source,
            indices=self.indices,
            on_image=show,
            on_failure=lambda index, line: self._log.say(line),
            take=self._go_on,
        )
        if not result.images:
            return {}
        if self._blurry is None:
            blurry = score_pairs(Blurry(), self._source, indices=self.indices, take=self._go_on)
            self._blurry = blurry.mean["psnr"]
        scores = {f"eval_{name}": value for name, value in result.mean.items()}
        return scores | {"eval_psnr_blurry": self._blurry}

    def _go_on(self, index: int) -> bool:
        if asked := self._asked():
            raise _AskedToStop(asked)
        return True


class _AskedToStop(Exception):  # noqa: N818 (nothing is wrong)
    """Ends an evaluation; says by which signal."""
