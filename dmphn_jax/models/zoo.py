"""Names of models, and the paper's figures for each: Tables 1, 2 and 4. No jax."""

from __future__ import annotations

import dataclasses
import re

from dmphn_jax.errors import UserError, nearest
from dmphn_jax.models.config import ModelConfig


@dataclasses.dataclass(frozen=True)
class Entry:
    """A model of the paper.

    Attributes:
      name: its name here, and `label` the paper's.
      config: the model.
      psnr, ssim: on GoPro's 1111 test pairs, dB and MATLAB's RGB SSIM.
      size_mb: the paper's size in MB (10^6 bytes); None where it gives none.
      runtime_ms: at 1280x720 on a P100, timed by the authors without waiting for the GPU: not
        comparable with synchronised figures.
      tables: where the figures stand.
    """

    name: str
    label: str
    config: ModelConfig
    psnr: float
    ssim: float
    size_mb: float | None
    runtime_ms: float | None
    tables: str


def _entries() -> list[Entry]:
    rows = [
        ("dmphn_1", "DMPHN(1)", 28.70, 0.9131, 7.2, 5, "1, 2"),
        ("dmphn_1_2", "DMPHN(1-2)", 29.77, 0.9286, 14.5, 9, "1, 4"),
        ("dmphn_1_1_1", "DMPHN(1-1-1)", 28.11, 0.9041, 21.7, 12, "1"),
        ("dmphn_1_2_4", "DMPHN(1-2-4)", 30.21, 0.9345, 21.7, 17, "1, 4"),
        ("dmphn_1_4_16", "DMPHN(1-4-16)", 29.15, 0.9217, 21.7, 92, "1"),
        ("dmphn_1_2_4_8", "DMPHN(1-2-4-8)", 30.25, 0.9351, 29.0, 30, "1, 4"),
        ("dmphn_1_2_4_8_16", "DMPHN(1-2-4-8-16)", 29.87, 0.9305, 36.2, 101, "1"),
        ("dmphn_1_2_ws", "DMPHN(1-2)-WS", 29.22, 0.9210, 7.2, None, "4"),
        ("dmphn_1_2_4_ws", "DMPHN(1-2-4)-WS", 29.56, 0.9257, 7.2, None, "4"),
        ("dmphn_1_2_4_8_ws", "DMPHN(1-2-4-8)-WS", 30.04, 0.9318, 7.2, None, "4"),
        ("stack2", "Stack(2)-DMPHN", 30.71, 0.9403, 43.4, 37, "1"),
        ("stack3", "Stack(3)-DMPHN", 31.16, 0.9451, 65.1, 233, "1"),
        ("stack4", "Stack(4)-DMPHN", 31.20, 0.9453, 86.8, 424, "1"),
        ("vmphn", "VMPHN", 30.90, 0.9419, 43.4, 161, "1"),
        ("stack2_vmphn", "Stack(2)-VMPHN", 31.50, 0.9483, 86.8, 552, "1"),
        ("dmsn_1", "DMSN(1)", 28.70, 0.9131, None, 4, "2"),
        ("dmsn_2", "DMSN(2)", 28.82, 0.9156, None, 21, "2"),
        ("dmsn_3", "DMSN(3)", 28.97, 0.9178, None, 27, "2"),
    ]
    return [
        Entry(name, label, parse(name), psnr, ssim, size, runtime, tables)
        for name, label, psnr, ssim, size, runtime, tables in rows
    ]


_NAME = re.compile(
    r"(?:stack(?P<stages>\d+)(?:_|$))?"
    r"(?:(?P<dmphn>dmphn)(?P<levels>(?:_\d+)+)(?P<ws>_ws)?"
    r"|(?P<vmphn>vmphn)(?P<vlevels>(?:_\d+)+)?"
    r"|dmsn_(?P<scales>\d+))?"
)


def parse(name: str) -> ModelConfig:
    """Returns the model a name spells; raises ValueError if it spells none.

    Names are `dmphn_1_2_4`, with `_ws` for weight sharing, `vmphn` (`vmphn_1_2` for another
    hierarchy), `dmsn_3`, and any of them behind `stackN_`; `stackN` alone stacks `dmphn_1_2_4`.
    """
    match = _NAME.fullmatch(name)
    if not match or not name:
        raise ValueError(f"{name!r} spells no model")
    stages = int(match["stages"] or 1)
    if match["scales"]:
        return ModelConfig("dmsn", match["scales"], stages)
    if match["vmphn"]:
        levels = (match["vlevels"] or "_1_2_4")[1:].replace("_", "-")
        return ModelConfig("vmphn", levels, stages)
    levels = (match["levels"] or "_1_2_4")[1:].replace("_", "-")
    return ModelConfig("dmphn", levels, stages, weight_sharing=bool(match["ws"]))


def name_of(config: ModelConfig) -> str:
    """Returns the zoo's name of a model; width and global skip, which have none, are not in it."""
    levels = config.hierarchy.replace("-", "_")
    unit = {
        "dmphn": f"dmphn_{levels}" + ("_ws" if config.weight_sharing else ""),
        "vmphn": "vmphn" if levels == "1_2_4" else f"vmphn_{levels}",
        "dmsn": f"dmsn_{levels}",
    }[config.family]
    if config.stages == 1:
        return unit
    return f"stack{config.stages}" + ("" if unit == "dmphn_1_2_4" else f"_{unit}")


ZOO: dict[str, Entry] = {entry.name: entry for entry in _entries()}


def get(name: str) -> ModelConfig:
    """Returns the model called `name`: the zoo's, or any other that `parse` can spell.

    Raises UserError with the nearest name if there is none.
    """
    try:
        return parse(name)
    except ValueError:
        raise UserError(
            f"no model is called {name!r}{nearest(name, ZOO)}; `dmphn models` lists them"
        ) from None


def paper_entry(config: ModelConfig) -> Entry | None:
    """Returns the paper's figures for a model, None if it is not one of the paper's."""
    entry = ZOO.get(name_of(config))
    return entry if entry is not None and entry.config == config else None
