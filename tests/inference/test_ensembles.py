"""Means over poses of an image."""

from types import SimpleNamespace

import numpy as np
import pytest

from dmphn_jax.errors import UserError
from dmphn_jax.inference.deblurrer import Deblurrer
from dmphn_jax.inference.ensembles import SelfEnsemble, ShiftEnsemble
from dmphn_jax.inference.pending import Ready
from dmphn_jax.models import ModelConfig
from tests.support.networks import random_params


class Recorder:
    """Leaves images as they are, and keeps them."""

    def __init__(self):
        self.seen = []

    def submit(self, images):
        self.seen.append(images)
        return Ready(images)


def noise(*shape, dtype=np.uint8):
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max + 1, shape, dtype)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize(("hierarchy", "passes"), [(None, 8), ("1-2", 2), ("1-2-4", 4)])
def test_what_does_nothing_is_left(dtype, hierarchy, passes):
    recorder, images = Recorder(), noise(2, 45, 30, 3, dtype=dtype)
    if hierarchy:
        ensemble = ShiftEnsemble(recorder, ModelConfig(hierarchy=hierarchy))
    else:
        ensemble = SelfEnsemble(recorder)
    result = ensemble.submit(images).result()
    np.testing.assert_array_equal(result, images)
    assert result.dtype == dtype
    assert len(recorder.seen) == passes
    assert {x.shape[1:3] for x in recorder.seen} == set(ensemble.sizes([(45, 30)]))


class Slow:
    """Computes passes on devices of its own: tells how many are under way, and in which order."""

    def __init__(self, bad=()):
        self.under_way, self.most, self.ended, self.bad = 0, 0, [], bad
        self.started = 0

    def submit(self, images):
        number = self.started
        self.started += 1
        self.under_way += 1
        self.most = max(self.most, self.under_way)

        def result():
            self.under_way -= 1
            self.ended.append(number)
            if number in self.bad:
                raise UserError(f"pass {number}")
            return images // 3

        return SimpleNamespace(result=result)


@pytest.mark.parametrize(("devices", "batch", "most"), [(1, 1, 2), (3, 1, 6), (3, 3, 2)])
def test_passes_of_one_image_and_the_next_are_under_way_together(devices, batch, most):
    slow, images = Slow(), [noise(batch, 24, 16, 3) + np.uint8(i) for i in range(3)]
    ensemble = SelfEnsemble(slow, devices)
    pending = [ensemble.submit(each) for each in images]
    assert slow.under_way == slow.most == most
    last = pending[2].result()  # whoever is asked first
    assert slow.ended == list(range(24))
    np.testing.assert_array_equal(last, SelfEnsemble(Slow()).submit(images[2]).result())
    for one, each in zip(pending, images):
        exact = each.astype(int) * 257 // 3 / 257
        assert np.abs(one.result() - exact).max() <= 0.5
        assert one.result().dtype == np.uint8


def test_a_pass_that_fails_fails_its_own_image():
    slow = Slow(bad=(1, 9))
    ensemble = SelfEnsemble(slow, devices=4)
    pending = [ensemble.submit(noise(1, 8, 8, 3)) for _ in range(3)]
    pending[2].check()
    for number, one in ((1, pending[0]), (9, pending[1])):
        with pytest.raises(UserError, match=f"pass {number}"):
            one.result()
    np.testing.assert_array_equal(pending[2].images, pending[2].result())


def test_an_image_whose_submission_fails_leaves_the_others():
    class Full(Slow):
        def submit(self, images):
            if self.started == 11:
                self.started += 1
                raise MemoryError
            return super().submit(images)

    ensemble = SelfEnsemble(Full(), devices=4)
    first = ensemble.submit(noise(1, 8, 8, 3))
    with pytest.raises(MemoryError):
        ensemble.submit(noise(1, 8, 8, 3))
    last = ensemble.submit(noise(1, 8, 8, 3))
    np.testing.assert_array_equal(first.result(), last.result())


def test_shifts_move_every_cut():
    """A method that marks the cuts: in no pose do they lie where the image's would."""
    config = ModelConfig(hierarchy="1-2-4")
    marks = []

    class Marker:
        def submit(self, images):
            marked = np.zeros_like(images)
            marked[:, images.shape[1] // 2], marked[:, :, images.shape[2] // 2] = 65535, 65535
            return Ready(marked)

    ensemble = ShiftEnsemble(Marker(), config)
    result = ensemble.submit(noise(1, 80, 96, 3)).result()[0, :, :, 0]
    marks = np.argwhere(result[:, 0] > 0).ravel(), np.argwhere(result[0] > 0).ravel()
    # An eighth of a patch, 5 and 6 pixels, or what the grid's multiple makes of it.
    assert [m.tolist() for m in marks] == [[32, 48], [40, 56]]


def test_a_shift_ensemble_is_the_mean_of_shifted_passes():
    config = ModelConfig(hierarchy="2", width=1)
    deblurrer = Deblurrer(params=random_params(config), config=config)
    image = noise(40, 12, 3, dtype=np.uint16)
    got = ShiftEnsemble(deblurrer, config).submit(image[None]).result()[0]
    passes = [
        deblurrer(np.pad(image, ((top, 8 - top), (0, 0), (0, 0)), "reflect"))[top : top + 40]
        for top in (0, 8)
    ]
    assert np.abs(got - np.mean(passes, axis=0)).max() <= 0.5
    assert np.any(passes[0] != passes[1])


def test_a_model_without_patches_has_none_to_shift():
    with pytest.raises(UserError, match="this model has none"):
        ShiftEnsemble(Recorder(), ModelConfig(hierarchy="1-1-1"))
    with pytest.raises(UserError, match="this model has none"):
        ShiftEnsemble(Recorder(), ModelConfig("dmsn", "2"))
