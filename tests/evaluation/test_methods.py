import itertools

import numpy as np

from dmphn_jax.evaluation.methods import Blurry
from dmphn_jax.inference.deblurrer import Deblurrer
from dmphn_jax.inference.ensembles import SelfEnsemble
from tests.support.evaluation import TINY, Pairs


def test_ensemble_is_the_mean_over_the_eight_poses(params):
    """Against the definition, with a network that knows left from right and up from down."""
    image = Pairs([(24, 24)])[0].blurry
    deblurrer = Deblurrer(params=params, config=TINY)
    total = np.zeros(image.shape)
    for turns, mirror in itertools.product(range(4), (False, True)):
        pose = np.rot90(image, turns)
        pose = np.fliplr(pose) if mirror else pose
        output = np.clip(deblurrer.output(np.ascontiguousarray(pose)).image, 0, 1)
        output = np.fliplr(output) if mirror else output
        total += np.rot90(output, -turns)
    want = total / 8 * 255
    got = SelfEnsemble(deblurrer).submit(image[None]).result()[0]
    assert got.dtype == np.uint8
    assert np.abs(got - want).max() < 0.51


def test_ensemble_leaves_what_does_nothing():
    images = np.stack([pair.blurry for pair in (Pairs()[0], Pairs()[1])])
    np.testing.assert_array_equal(SelfEnsemble(Blurry()).submit(images).result(), images)
