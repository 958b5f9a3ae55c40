"""Files and layers by the authors' names, and the model a folder of such files holds. No jax.

A file holds one encoder or one decoder. The authors name it by level, `encoder_lv3.pkl`, and in a
stack by stage too, `decoder_s2_lv3.pkl`. What they never released is named likewise, here:

| model | files |
|---|---|
| weight sharing | `encoder_shared.pkl` |
| VMPHN | `encoder_descending_lv1.pkl`, `encoder_ascending_lv1.pkl` |
| DMSN | `encoder_scale1.pkl`, scale 1 being the full resolution |

each with `_s2` after `encoder` or `decoder` for stage 2 of a stack.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator

from dmphn_jax.errors import few
from dmphn_jax.models import ModelConfig, zoo

HALVES = ("encoder", "decoder")
# Written beside the files: hierarchies such as 1-1-1, which their names cannot tell.
MODEL_FILE = "dmphn_model.json"

_FILE = re.compile(
    r"(?P<half>encoder|decoder)(?:_s(?P<stage>[1-9]\d{0,3}))?_"
    r"(?P<node>(?P<kind>lv|descending_lv|ascending_lv|scale)(?P<number>[1-9]\d{0,3})|shared)\.pkl"
)
_HIERARCHIES = ("1", "1-2", "1-2-4", "1-2-4-8", "1-2-4-8-16")

# Layer of the tree -> the authors' name. Their numbers skip those of layers without weights.
LAYERS: dict[str, dict[tuple[str, ...], str]] = {half: {} for half in HALVES}
for _half, _name, _layer in (
    ("encoder", "conv_1", 1),
    ("encoder", "block_1", 2),
    ("encoder", "block_2", 3),
    ("encoder", "conv_2", 5),
    ("encoder", "block_3", 6),
    ("encoder", "block_4", 7),
    ("encoder", "conv_3", 9),
    ("encoder", "block_5", 10),
    ("encoder", "block_6", 11),
    ("decoder", "block_1", 13),
    ("decoder", "block_2", 14),
    ("decoder", "up_1", 16),
    ("decoder", "block_3", 17),
    ("decoder", "block_4", 18),
    ("decoder", "up_2", 20),
    ("decoder", "block_5", 21),
    ("decoder", "block_6", 22),
    ("decoder", "conv", 24),
):
    if _name.startswith("block"):
        # A block is conv, ReLU, conv: items 0 and 2 of a torch Sequential.
        LAYERS[_half][_name, "conv_1"] = f"layer{_layer}.0"
        LAYERS[_half][_name, "conv_2"] = f"layer{_layer}.2"
    else:
        LAYERS[_half][(_name,)] = f"layer{_layer}"


def tensor_shapes(half: str, width: int) -> dict[str, tuple[int, ...]]:
    """Returns name -> shape of the tensors of a file, in torch's order: out, in, kh, kw."""
    shapes = {}
    channels = 3 if half == "encoder" else 4 * width
    outputs = {"conv_1": 1, "conv_2": 2, "conv_3": 4, "up_1": 2, "up_2": 1}
    for path, layer in LAYERS[half].items():
        out = channels
        if len(path) == 1:
            out = 3 if path == ("conv",) else width * outputs[path[0]]
        kernel = (out, channels, 3, 3)
        if path[0].startswith("up"):  # a transposed convolution: in, out
            kernel = (channels, out, 4, 4)
        shapes[f"{layer}.weight"], shapes[f"{layer}.bias"] = kernel, (out,)
        channels = out
    return shapes


@dataclasses.dataclass(frozen=True, order=True)
class Part:
    """One encoder or decoder: its stage, its node in the tree (`level_3`), and which half."""

    stage: int
    node: str
    half: str

    def file(self, staged: bool) -> str:
        """Returns the authors' file name, with the stage in it if `staged`."""
        stage = f"_s{self.stage}" if staged else ""
        node = self.node.replace("level_", "lv").replace("scale_", "scale")
        return f"{self.half}{stage}_{node}.pkl"


def parts(config: ModelConfig) -> list[Part]:
    """Returns every encoder and decoder of a model."""
    return _parts(range(1, config.stages + 1), _nodes_of(config))


def file_names(config: ModelConfig) -> dict[str, Part]:
    """Returns file name -> part, for writing a model."""
    return {part.file(config.stages > 1): part for part in parts(config)}


def is_weight_file(name: str) -> bool:
    """Whether a file's name is one of the scheme."""
    return _FILE.fullmatch(name) is not None


def _nodes(family: str, levels: int, weight_sharing: bool = False) -> list[str]:
    numbers = range(1, levels + 1)
    if weight_sharing:
        return ["shared"]
    if family == "vmphn":
        ways = ("descending", "ascending")
        return [f"{way}_level_{number}" for way in ways for number in numbers]
    return [f"{'scale' if family == 'dmsn' else 'level'}_{number}" for number in numbers]


def _nodes_of(config: ModelConfig) -> list[str]:
    return _nodes(config.family, len(config.patches), config.weight_sharing)


def _parts(stages: Iterable[int], nodes: list[str]) -> list[Part]:
    return [Part(stage, node, half) for stage in stages for node in nodes for half in HALVES]


@dataclasses.dataclass
class _Scheme:
    """The files of one way of naming: with stages or without, of one kind of model."""

    staged: bool
    kind: str  # "dmphn", "vmphn", "dmsn" or "shared"
    found: set[Part]
    highest: int  # level or scale of stage 1

    @property
    def nodes(self) -> list[str]:
        return _nodes(self.kind, self.highest, self.kind == "shared")

    def missing(self, stage: int) -> list[str]:
        wanted = _parts([stage], self.nodes)
        return [part.file(self.staged) for part in wanted if part not in self.found]

    @property
    def stages(self) -> int:
        """Complete stages from the first on, without a gap."""
        count = 0
        while not self.missing(count + 1):
            count += 1
        return count


def _schemes(names: Iterable[str]) -> Iterator[_Scheme]:
    kinds = {"lv": "dmphn", "scale": "dmsn", None: "shared"}
    groups: dict[tuple[bool, str], list[re.Match]] = {}
    for name in names:
        if match := _FILE.fullmatch(name):
            key = match["stage"] is not None, kinds.get(match["kind"], "vmphn")
            groups.setdefault(key, []).append(match)
    for (staged, kind), matches in groups.items():
        found, highest = set(), 1
        for match in matches:
            node = re.sub("lv(?=\\d)", "level_", match["node"]).replace("scale", "scale_")
            stage = int(match["stage"] or 1)
            found.add(Part(stage, node, match["half"]))
            if stage == 1 and match["number"]:
                highest = max(highest, int(match["number"]))
        yield _Scheme(staged, kind, found, highest)


def files_of(config: ModelConfig, names: Iterable[str]) -> dict[str, Part]:
    """Returns file name -> part for a known model among the files `names`.

    A model of one stage may be the first stage of files named by stage.

    Raises ValueError naming the first file that is missing.
    """
    names = set(names)
    ways = [True] if config.stages > 1 else [False, True]
    choices = [{part.file(staged): part for part in parts(config)} for staged in ways]
    best = max(choices, key=lambda choice: len(names.intersection(choice)))
    for name in best:
        if name not in names:
            raise ValueError(f"{name} is missing; {zoo.name_of(config)} needs it")
    return best


def infer(names: Iterable[str]) -> tuple[ModelConfig, dict[str, Part]]:
    """Works out the model from file names: (its configuration of default width, name -> part).

    Levels count 1-2-4-8-16 from level 1 on. A stack ends before the first stage that lacks a
    file. Where several models are complete, the one of most files is taken.

    Raises ValueError if the files make no model, naming what is missing.
    """
    schemes = list(_schemes(names))
    if not schemes:
        raise ValueError("no weight files such as encoder_lv1.pkl and decoder_lv1.pkl in it")
    scheme = max(schemes, key=lambda s: (s.stages * len(s.nodes), len(s.found)))
    if scheme.stages == 0:
        raise ValueError(f"{scheme.missing(1)[0]} is missing (--model names a model without it)")
    if scheme.kind == "shared":
        raise ValueError(
            "a shared pair does not say its hierarchy; name the model, as --model dmphn_1_2_4_ws"
        )
    hierarchy = str(scheme.highest)
    if scheme.kind != "dmsn":
        if scheme.highest > len(_HIERARCHIES):
            raise ValueError(f"no model has {scheme.highest} levels; name one with --model")
        hierarchy = _HIERARCHIES[scheme.highest - 1]
    try:
        config = ModelConfig(scheme.kind, hierarchy, scheme.stages)
    except ValueError as error:
        raise ValueError(f"no model has these files: {error}") from None
    return config, {part.file(scheme.staged): part for part in parts(config)}


def leftovers(config: ModelConfig, taken: Iterable[str], names: Iterable[str]) -> str:
    """Returns a line on the `.pkl` files among `names` that a model does not take, or ""."""
    taken = set(taken)
    left = sorted({name for name in names if name.endswith(".pkl")} - taken)
    if not left:
        return ""
    text = f"{few(left)} ignored: no part of {zoo.name_of(config)}"
    following = _parts([config.stages + 1], _nodes_of(config))
    wanted = {part.file(staged=True) for part in following}
    if any((_stage_of(name) or 0) > config.stages for name in left) and (
        missing := wanted - set(left)
    ):
        text += f" (stage {config.stages + 1} lacks {min(missing)})"
    return text


def _stage_of(name: str) -> int | None:
    match = _FILE.fullmatch(name)
    return int(match["stage"]) if match and match["stage"] else None
