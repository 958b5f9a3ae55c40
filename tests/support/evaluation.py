"""A tiny network and pairs in memory for the tests of evaluation."""

from __future__ import annotations

import jax
import numpy as np
import scipy.ndimage

from dmphn_jax import checkpoints, models
from dmphn_jax.data.base import Pair
from dmphn_jax.errors import UserError
from dmphn_jax.evaluation.contender import Contender
from dmphn_jax.evaluation.methods import Blurry
from dmphn_jax.evaluation.report import Report
from dmphn_jax.evaluation.scores import EvaluationResult, ImageScores
from dmphn_jax.models import ModelConfig

SIZE = (24, 32)
TINY = ModelConfig("dmphn", "1", stages=2, width=2)


def tiny_params():
    """Weights of TINY that make more than a grey image."""
    rng = np.random.default_rng(0)
    shapes = models.parameter_shapes(TINY)
    return jax.tree.map(lambda leaf: rng.normal(0, 0.3, leaf.shape).astype(np.float32), shapes)


def save_tiny(path):
    """Saves a checkpoint of TINY and returns its path."""
    checkpoints.save(path, tiny_params(), TINY)
    return path


class Pairs:
    """Pairs in memory; `read` counts what was asked for."""

    def __init__(self, sizes=(SIZE,) * 5, videos=1, bad=()):
        self.names = [f"video{i % videos}/{i:06d}" for i in range(len(sizes))]
        self.sizes, self.bad, self.read = sizes, bad, []

    def __len__(self):
        return len(self.sizes)

    def __getitem__(self, index):
        self.read.append(index)
        if index in self.bad:
            raise UserError(f"{self.names[index]}.png: damaged")
        rng = np.random.default_rng(index)
        sharp = rng.integers(0, 256, (*self.sizes[index], 3), dtype=np.uint8)
        blurry = scipy.ndimage.gaussian_filter(sharp, (0.5 + index / 4, 0.5, 0))
        return Pair(blurry, sharp, self.names[index])


def row(label, scores, **fields):
    """A row whose videos have these PSNRs."""
    of = [{"psnr": p, "ssim_matlab": 0.9, "ssim_skimage": 0.8} for p in scores.values()]
    names = [f"{name}/0" for name in scores]
    images = [ImageScores(i, n, 720, 1280, s) for i, (n, s) in enumerate(zip(names, of))]
    return Contender(Blurry(), label, **fields).row(label, EvaluationResult(images))


def as_report(rows, **data):
    fields = {"source": "gopro", "split": "test", "images": 1111, "of": 1111, **data}
    return Report(rows=tuple(rows), date="2026-01-01", devices="1 x cpu", **fields)
