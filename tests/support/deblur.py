"""Running `dmphn deblur`, and what stands in for the network: instant, told by eye."""

from __future__ import annotations

import types

import numpy as np

from dmphn_jax.commands import deblur
from dmphn_jax.errors import run_command
from dmphn_jax.inference.layout import plan
from tests.support.pictures import SHAPE, noise, saved


def run(*arguments):
    return run_command(deblur.main, [str(argument) for argument in arguments])


def jobs_of(folder, out, count):
    folder.mkdir()
    for index in range(count):
        saved(folder / f"{index:02}.png", noise(*SHAPE, 3, seed=index))
    return plan([str(folder)], str(out)).jobs


def submitting(function):
    """`Deblurrer.submit` of a network that computes `function` of each image, at once."""

    def submit(images):
        result = np.stack([function(image) for image in images])
        return types.SimpleNamespace(result=lambda: result)

    return submit


def deblurrer_of(function):
    """A class to put in `Deblurrer`'s place."""

    class Replaced:
        def __init__(self, checkpoint, *, stages=None, precision="float32", **options):
            self.submit, self.devices = submitting(function), [None]
            self.digest, self.stages, self.precision = "digest", stages or 1, precision

        def compile_for(self, sizes):
            pass

    return Replaced
