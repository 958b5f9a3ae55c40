"""A contender of an evaluation: a method, and what its row and its kept results go by."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from dmphn_jax.evaluation.methods import Method
from dmphn_jax.evaluation.paper import BLURRY, TABLE_3, PaperFigures, figures_of
from dmphn_jax.evaluation.report import Row, run_options
from dmphn_jax.evaluation.results import key_of
from dmphn_jax.evaluation.scores import EvaluationResult, Runtime
from dmphn_jax.models import ModelConfig, parameter_count


@dataclasses.dataclass(frozen=True)
class Contender:
    """A method to score, and what is told of it.

    Attributes:
      method: computes the images.
      label: what it is, for people.
      checkpoint: its path as the user gave it; None if there is none, like those below.
      digest: of the checkpoint's parameters.
      config: the whole model of the checkpoint.
      stages: those that run.
      ensemble, precision: how it is run.
    """

    method: Method
    label: str
    checkpoint: str | None = None
    digest: str | None = None
    config: ModelConfig | None = None
    stages: int | None = None
    ensemble: bool = False
    precision: str = "float32"

    def key(self, data: Mapping[str, object]) -> str:
        """Returns the key of its results on data of that identity, plain JSON values."""
        how = run_options(self.ensemble, self.precision) if self.config else None
        return key_of(data=data, digest=self.digest or self.label, stages=self.stages, options=how)

    def row(self, label: str, result: EvaluationResult, runtime: Runtime | None = None) -> Row:
        """Returns its row of a report, beside the paper's figures."""
        paper, parameters = None, None
        if self.label == BLURRY:
            paper = PaperFigures(table_3=TABLE_3[BLURRY])
        if self.config is not None:
            paper = figures_of(self.config, self.stages)
            stages = self.stages or self.config.stages
            parameters = parameter_count(dataclasses.replace(self.config, stages=stages))
        return Row(
            label=label,
            images=len(result),
            failed=len(result.failures),
            mean=result.mean,
            video_mean=result.video_mean,
            videos=result.videos,
            images_per_second=result.images_per_second,
            checkpoint=self.checkpoint,
            digest=self.digest,
            ensemble=self.ensemble,
            precision=self.precision,
            model=self.config,
            parameters=parameters,
            runtime=runtime,
            paper=paper,
        )
