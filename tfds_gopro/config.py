"""The configs of a prepared set: whole frames, or raw tiles of a size and stride."""

from __future__ import annotations

import dataclasses

import tensorflow_datasets as tfds

from tfds_gopro.sizes import FRAME, STRIDE, TILE


@dataclasses.dataclass(eq=False, kw_only=True)
class PairConfig(tfds.core.BuilderConfig):
    """What a prepared set holds.

    `size` (height, width) and `stride` are those of raw tiles; `size` None keeps whole encoded
    frames. `blur` is the folder of the blurry side, 'blur' or 'blur_gamma'.
    """

    size: tuple[int, int] | None = None
    stride: int = STRIDE
    blur: str = "blur"


def pair_config(
    kind: str = "frames",
    blur: str = "blur",
    size: tuple[int, int] = TILE,
    stride: int = STRIDE,
) -> PairConfig:
    """Returns the config for these parameters; tiles other than the default carry them in the name.

    `crops`, `crops_gamma`, `crops_frame`, `crops_384x384_128`, ... With the default stride of half
    a tile every 256x256 crop of a frame lies within one tile.
    """
    gamma = "" if blur == "blur" else "_gamma"
    if kind == "frames":
        text = f"whole frames as encoded in the original files, side {blur!r}"
        return PairConfig(name=f"frames{gamma}", description=text, blur=blur)
    name = f"crops_{size[0]}x{size[1]}_{stride}"
    text = f"raw uint8 tiles of {size[0]}x{size[1]} every {stride} pixels, side {blur!r}"
    if (size, stride) == (TILE, STRIDE):
        name = "crops"
    elif size == FRAME:
        name, text = "crops_frame", f"raw uint8 frames, side {blur!r}"
    return PairConfig(name=name + gamma, description=text, size=size, stride=stride, blur=blur)
