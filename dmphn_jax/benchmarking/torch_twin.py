"""The DMPHN family in PyTorch: the same network and weights, to be timed against.

Ours, written from the equations of `models/hierarchy.py` and `models/stack.py`; the layers carry
the authors' names, as `checkpoints.torch.names` gives them. Images are (B, 3, H, W).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dmphn_jax.checkpoints.torch.names import LAYERS, tensor_shapes
from dmphn_jax.checkpoints.torch.writing import tensors_of
from dmphn_jax.errors import UserError
from dmphn_jax.models import ModelConfig, zoo
from dmphn_jax.models.patches import Grid

Patchwise = Callable[[Callable[[Tensor], Tensor], Tensor, Grid], Tensor]


class Half(nn.Module):
    """An encoder, (B, 3, H, W) -> (B, 4*width, H/4, W/4), or a decoder, back again."""

    def __init__(self, half: str, width: int) -> None:
        super().__init__()
        shapes = tensor_shapes(half, width)
        self._steps: list[tuple[str, bool]] = []  # layer's name, whether it is a residual block
        for path, layer in LAYERS[half].items():
            name, _, item = layer.partition(".")
            conv = _conv(shapes[f"{layer}.weight"], stride=2 if path[0] in _STRIDED else 1)
            if not item:
                self.add_module(name, conv)
                self._steps.append((name, False))
            elif item == "0":
                self.add_module(name, nn.Sequential(conv, nn.ReLU()))
                self._steps.append((name, True))
            else:
                getattr(self, name).append(conv)

    def forward(self, x: Tensor) -> Tensor:
        """Runs the 15 convolutions."""
        for name, block in self._steps:
            y = getattr(self, name)(x)
            x = x + y if block else y
        return x


_STRIDED = ("conv_2", "conv_3")


def _conv(shape: tuple[int, ...], stride: int) -> nn.Module:
    if shape[2] == 4:  # transposed: in, out
        return nn.ConvTranspose2d(shape[0], shape[1], 4, stride=2, padding=1)
    return nn.Conv2d(shape[1], shape[0], 3, stride=stride, padding=1)


def patch_by_patch(function: Callable[[Tensor], Tensor], x: Tensor, grid: Grid) -> Tensor:
    """Applies `function` to one patch after the other, as the authors' code does."""
    rows, columns = grid
    h, w = x.shape[2] // rows, x.shape[3] // columns
    return torch.cat(
        [
            torch.cat(
                [
                    function(x[:, :, r * h : (r + 1) * h, c * w : (c + 1) * w])
                    for c in range(columns)
                ],
                3,
            )
            for r in range(rows)
        ],
        2,
    )


def stacked(function: Callable[[Tensor], Tensor], x: Tensor, grid: Grid) -> Tensor:
    """Applies `function` to all patches at once, stacked along the batch, in channels_last."""
    if grid == (1, 1):
        return function(x)
    rows, columns = grid
    x = x.permute(0, 2, 3, 1)  # a view: one copy cuts, another joins
    batch, height, width, channels = x.shape
    x = x.reshape(batch, rows, height // rows, columns, width // columns, channels)
    x = x.permute(0, 1, 3, 2, 4, 5).reshape(
        batch * rows * columns, height // rows, width // columns, channels
    )
    y = function(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    _, h, w, channels = y.shape
    y = y.reshape(batch, rows, columns, h, w, channels).permute(0, 1, 3, 2, 4, 5)
    return y.reshape(batch, rows * h, columns * w, channels).permute(0, 3, 1, 2)


class Twin(nn.Module):
    """A model of the DMPHN family, single or stacked."""

    def __init__(self, config: ModelConfig, patchwise: Patchwise = stacked) -> None:
        """Builds it with PyTorch's own initial weights.

        Args:
          config: the model.
          patchwise: `patch_by_patch` or `stacked`.

        Raises UserError for VMPHN and DMSN.
        """
        super().__init__()
        check_family(config)
        self.config, self.patchwise = config, patchwise
        self.nodes = (
            ["shared"] * len(config.grids)
            if config.weight_sharing
            else [f"level_{level}" for level in range(1, len(config.grids) + 1)]
        )
        for stage in range(1, config.stages + 1):
            pairs = {
                node: nn.ModuleDict({h: Half(h, config.width) for h in LAYERS})
                for node in dict.fromkeys(self.nodes)
            }
            self.add_module(f"stage_{stage}", nn.ModuleDict(pairs))

    def load(self, params: dict[str, Any]) -> Twin:
        """Takes the weights of our parameter tree, `stage_1/level_3/encoder/...`; returns self."""
        for stage in range(1, self.config.stages + 1):
            for node in dict.fromkeys(self.nodes):
                for half in LAYERS:
                    tensors = tensors_of(params[f"stage_{stage}"][node][half], half)
                    self.get_submodule(f"stage_{stage}.{node}.{half}").load_state_dict(
                        {k: torch.from_numpy(np.array(v, order="C")) for k, v in tensors.items()}
                    )
        return self

    def forward(self, image: Tensor) -> list[Tensor]:
        """Deblurs (B, 3, H, W) on [-0.5, 0.5]; returns every stage's image."""
        outputs: list[Tensor] = []
        features: list[Tensor] | None = None
        for stage in range(1, self.config.stages + 1):
            first = outputs[0] if outputs else None
            image, features = self._unit(getattr(self, f"stage_{stage}"), image, features, first)
            outputs.append(image)
        return outputs

    def _unit(
        self,
        unit: nn.Module,
        image: Tensor,
        features: list[Tensor] | None,
        first: Tensor | None,
    ) -> tuple[Tensor, list[Tensor]]:
        """Runs one unit; returns its image, and its features from level 1 on."""
        grids = self.config.grids
        s, f, encoded = None, None, []
        for level in range(len(grids), 0, -1):
            pair = unit[self.nodes[level - 1]]
            x = image if s is None else image + s
            e = self.patchwise(pair["encoder"], x, grids[level - 1])
            f = e if f is None else e + f
            if features is not None:
                f = f + features[level - 1]
            s = self.patchwise(pair["decoder"], f, grids[level - 2] if level > 1 else (1, 1))
            if level == 2 and first is not None:
                s = s + first
            encoded.insert(0, f)
        return (s + image if self.config.global_skip else s), encoded


def check_family(config: ModelConfig) -> None:
    """Raises UserError for a model that has no PyTorch twin."""
    if config.family != "dmphn":
        raise UserError(
            f"{zoo.name_of(config)}: the PyTorch twin covers the dmphn family; "
            "leave the model or --vs out"
        )
