"""Cuts, windows and averages of frames, without a video."""

import numpy as np
from PIL import Image

from dmphn_jax.video.reading import Frame, Report
from dmphn_jax.video.windows import CutDetector, average, windows


def take(count, *, lengths, every=None, cuts=(), gaps=()):
    """The windows of `count` frames as (first, last); a cut is a jump from black to white."""
    level, frames = 0, []
    for i in range(count):
        level = 255 - level if i in cuts else level
        frames.append(Frame(np.full((4, 4, 3), level, np.uint8), i, i / 240, i in gaps))
    lengths = iter(list(lengths) * count)
    got = windows(iter(frames), lengths, CutDetector(0.1), Report(), every)
    return [(w.frames[0].index, w.frames[-1].index) for w in got]


def test_windows():
    assert take(10, lengths=[3]) == [(0, 2), (3, 5), (6, 8)]
    assert take(10, lengths=[3], every=1) == [(i, i + 2) for i in range(8)]
    assert take(10, lengths=[2], every=4) == [(0, 1), (4, 5), (8, 9)]
    # A long window held more than the short one after it needs.
    assert take(9, lengths=[5, 2], every=1) == [(0, 4), (1, 2), (2, 6), (3, 4), (4, 8), (5, 6)]
    assert take(10, lengths=[3], cuts=(4,)) == [(0, 2), (4, 6), (7, 9)]
    assert take(10, lengths=[3], gaps=(5,)) == [(0, 2), (5, 7)]
    # A cut ends the pause between two windows too.
    assert take(12, lengths=[2], every=6, cuts=(3,)) == [(0, 1), (3, 4), (9, 10)]


def test_a_fast_pan_is_no_cut():
    rng = np.random.default_rng(0)
    wide = np.asarray(
        Image.fromarray(rng.integers(0, 256, (6, 60, 3), np.uint8)).resize((2000, 60), 3)
    )
    detector = CutDetector(0.02)
    found = [detector(wide[:, i * 4 : i * 4 + 80].copy()) for i in range(100)]
    assert not any(found[2:])  # the pan's first step has nothing to be compared with
    assert detector(255 - wide[:, 1500:1580])
    assert detector(np.zeros((50, 80, 3), np.uint8))  # another size


def test_average_rounds_to_nearest():
    images = [np.full((1, 1, 3), v, np.uint8) for v in (0, 0, 1)]
    assert average(images).max() == 0
    assert average([*images, images[-1]]).min() == 1  # 0.5 rounds up
    same = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, 2)
    for gamma in (1.0, 0.5, 2.2, 5.0):
        np.testing.assert_array_equal(average([same] * 9, gamma), same)
    # Light adds up: averaging black and white gives more than the mean of what is stored.
    ends = [np.full((1, 1, 3), v, np.uint8) for v in (0, 255)]
    assert average(ends, 2.2).max() == round(255 * 0.5 ** (1 / 2.2))
