"""What is to be exported, and what an artefact says of itself. No jax."""

from __future__ import annotations

import dataclasses
import json

from dmphn_jax import __version__
from dmphn_jax.errors import UserError
from dmphn_jax.models import ModelConfig, parameter_count, zoo

FORMATS = ("stablehlo", "onnx", "saved")
PIXELS = ("uint8", "float")
_MOST_BYTES = 2_000_000_000  # of one file: flatbuffers and protobuf end at 2^31


@dataclasses.dataclass(frozen=True)
class Options:
    """What an artefact takes and gives.

    Attributes:
      format: one of `FORMATS`.
      stages: run the first so many stages of a stack only; None for all.
      precision: of the computation, one of `models.PRECISIONS`; ONNX has no bfloat16 here.
      pixels: "uint8", or "float" for float32 on [0, 1], in and out.
      size: (height, width) of the images; None for any.
      batch: how many images; None for any number.
    """

    format: str
    stages: int | None = None
    precision: str = "float32"
    pixels: str = "uint8"
    size: tuple[int, int] | None = None
    batch: int | None = None

    def check(self, config: ModelConfig) -> None:
        """Raises UserError for what a model, or the format, does not have."""
        if self.stages is not None and self.stages > config.stages:
            raise UserError(f"--stages {self.stages}: the model has stages 1 to {config.stages}")
        if self.precision == "tf32":
            raise UserError("--precision tf32: a file's float32 is that of where it runs")
        if self.format == "onnx" and self.precision == "bfloat16":
            raise UserError("--precision bfloat16: of --format stablehlo; ONNX has float16")
        if self.format != "saved" and 4 * self.parameters(config) > _MOST_BYTES:
            raise UserError(
                f"{self.parameters(config):,} parameters: more than a file of this format holds "
                "(2 GB); --format saved has no such limit"
            )

    def parameters(self, config: ModelConfig) -> int:
        """Returns how many parameters the artefact of a model holds: those of its stages."""
        return parameter_count(dataclasses.replace(config, stages=self.stages or config.stages))


def card(config: ModelConfig, digest: str, options: Options) -> dict[str, str]:
    """Returns an artefact's metadata, as texts: the model, its weights, what it takes.

    `multiple`: a height and a width which these divide are not padded inside.
    """
    rows, columns = config.multiple
    height, width = options.size or ("height", "width")
    return {
        "producer": f"dmphn_jax {__version__}",
        "model": zoo.name_of(config),
        "config": json.dumps(config.to_dict()),
        "stages": str(options.stages or config.stages),
        "checkpoint": digest,
        "precision": options.precision,
        "pixels": "uint8" if options.pixels == "uint8" else "float32 on [0, 1]",
        "shape": f"{options.batch or 'batch'}, {height}, {width}, 3",
        "multiple": f"{rows}x{columns}",
    }
