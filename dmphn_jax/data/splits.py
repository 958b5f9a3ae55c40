"""The published splits of GoPro and VideoDeblurring, and what a tree lacks of them.

GoPro: 2103 training and 1111 test pairs in 22 and 11 sequences (Nah et al. 2017, followed in
Sec. 4.1 of the DMPHN paper). VideoDeblurring: 61 training and 10 test videos (Su et al. 2017).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping

from dmphn_jax.errors import few

# sequence -> (first frame, last frame); frame numbers have no gaps. Counted in the lists that the
# DMPHN authors publish beside their code.
GOPRO: dict[str, dict[str, tuple[int, int]]] = {
    "train": {
        "GOPR0372_07_00": (47, 146),
        "GOPR0372_07_01": (601, 675),
        "GOPR0374_11_00": (1, 150),
        "GOPR0374_11_01": (203, 282),
        "GOPR0374_11_02": (541, 640),
        "GOPR0374_11_03": (2481, 2528),
        "GOPR0378_13_00": (41, 150),
        "GOPR0379_11_00": (188, 287),
        "GOPR0380_11_00": (134, 193),
        "GOPR0384_11_01": (951, 1050),
        "GOPR0384_11_02": (1301, 1400),
        "GOPR0384_11_03": (2101, 2200),
        "GOPR0384_11_04": (2801, 2900),
        "GOPR0385_11_00": (101, 200),
        "GOPR0386_11_00": (247, 346),
        "GOPR0477_11_00": (1, 80),
        "GOPR0857_11_00": (1, 100),
        "GOPR0868_11_01": (221, 320),
        "GOPR0868_11_02": (681, 780),
        "GOPR0871_11_01": (181, 280),
        "GOPR0881_11_00": (1, 100),
        "GOPR0884_11_00": (186, 285),
    },
    "test": {
        "GOPR0384_11_00": (1, 100),
        "GOPR0384_11_05": (4001, 4100),
        "GOPR0385_11_01": (3011, 3110),
        "GOPR0396_11_00": (1, 100),
        "GOPR0410_11_00": (101, 234),
        "GOPR0854_11_00": (1, 100),
        "GOPR0862_11_00": (1, 77),
        "GOPR0868_11_00": (1, 100),
        "GOPR0869_11_00": (1, 100),
        "GOPR0871_11_00": (1, 100),
        "GOPR0881_11_01": (201, 300),
    },
}

# The test videos in the order #1 .. #10 that the dataset's author published
# (github.com/shuochsu/DeepVideoDeblurring, issue 2). The DMPHN paper does not name the videos of
# its Table 3; that it numbers them in this order is assumed, not verified.
VIDEO_DEBLURRING_TEST: tuple[str, ...] = (
    "IMG_0030",
    "IMG_0049",
    "IMG_0021",
    "720p_240fps_2",
    "IMG_0032",
    "IMG_0033",
    "IMG_0031",
    "IMG_0003",
    "IMG_0039",
    "IMG_0037",
)
VIDEO_DEBLURRING_VIDEOS = {"train": 61, "test": 10}
VIDEO_DEBLURRING_PAIRS = {"train": 5708, "test": 1000}

Pairs = Mapping[str, Mapping[str, Collection[str]]]  # split -> sequence -> frame names


def video_deblurring_scored_frames(frames: int = 100) -> list[int]:
    """Returns the 30 frames (counted from 0) on which Su et al. score each test video.

    Their `floor(linspace(2, 97, 30))` counts from 1; pass the length to leave out frames that a
    shorter video does not have. Whether Table 3 uses them or all 100 frames is not said.
    """
    scored = [int(2 + 95 * step / 29) - 1 for step in range(30)]
    return [frame for frame in scored if frame < frames]


def missing_gopro(pairs: Pairs) -> list[str]:
    """Returns what `pairs` lacks of, or adds to, GoPro's published split; empty if nothing."""
    faults = []
    for split, sequences in GOPRO.items():
        found = pairs.get(split, {})
        total = sum(last - first + 1 for first, last in sequences.values())
        have = sum(len(frames) for frames in found.values())
        absent = [name for name in sequences if not found.get(name)]
        lacking = []
        for name, (first, last) in sequences.items():
            if name in absent:
                continue
            wanted = {f"{frame:06d}" for frame in range(first, last + 1)}
            if lost := sorted(wanted - set(found[name])):
                lacking.append(f"{name} lacks {len(lost)} of {len(wanted)} frames ({lost[0]})")
        strange = sorted(set(found) - set(sequences))
        extra = [
            name
            for name in sequences
            if set(found.get(name, ()))
            - {f"{frame:06d}" for frame in range(sequences[name][0], sequences[name][1] + 1)}
        ]
        parts = []
        if absent:
            parts.append(f"no {few(absent)}")
        if lacking:
            parts.append(few(lacking))
        if strange:
            parts.append(f"sequences of no such split: {few(strange)}")
        if extra:
            parts.append(f"frames that GoPro does not have in {few(extra)}")
        if parts:
            faults.append(f"{split} has {have} of {total} pairs: {'; '.join(parts)}")
    return faults


def missing_video_deblurring(pairs: Pairs) -> list[str]:
    """Returns what `pairs` lacks of VideoDeblurring's published split; empty if nothing."""
    faults = []
    absent = [name for name in VIDEO_DEBLURRING_TEST if not pairs.get("test", {}).get(name)]
    if absent:
        faults.append(f"no test videos {few(absent, 10)}")
    for split, videos in VIDEO_DEBLURRING_VIDEOS.items():
        lengths = Counter({name: len(frames) for name, frames in pairs.get(split, {}).items()})
        if len(lengths) != videos and not (split == "test" and absent):
            faults.append(f"{split} has {len(lengths)} of {videos} videos")
        elif not absent and (have := lengths.total()) != (want := VIDEO_DEBLURRING_PAIRS[split]):
            faults.append(f"{split} has {have} of {want} pairs")
    return faults
