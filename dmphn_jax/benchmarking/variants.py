"""The ways to run the PyTorch twin. No torch, so that `--help` can name them."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Variant:
    """A way to run the twin.

    Attributes:
      precision: of the convolutions: "float32", "tf32", or autocast to "bfloat16", "float16".
      channels_last: patches stacked along the batch, in channels_last; else NCHW, one by one.
      compiled: through `torch.compile`.
    """

    precision: str = "float32"
    channels_last: bool = True
    compiled: bool = False

    @property
    def needs_gpu(self) -> bool:
        """Whether it makes no sense on a CPU."""
        return self.compiled or self.precision != "float32"


VARIANTS: dict[str, Variant] = {
    "as-released": Variant(channels_last=False),
    "channels-last": Variant(),
    "channels-last-tf32": Variant("tf32"),
    "compile-tf32": Variant("tf32", compiled=True),
    "compile-bfloat16": Variant("bfloat16", compiled=True),
    "compile-float16": Variant("float16", compiled=True),
}
