import json
import subprocess
import sys

import numpy as np
import pytest

from dmphn_jax.data.base import Pair
from dmphn_jax.evaluation import metrics
from dmphn_jax.evaluation.methods import Blurry
from dmphn_jax.evaluation.scoring import _batches, measure_runtime, score_pairs
from dmphn_jax.inference.deblurrer import Deblurrer
from tests.support.evaluation import SIZE, TINY, Pairs


def test_scores_of_every_pair_in_order():
    source = Pairs(videos=2)
    result = score_pairs(Blurry(), source, batch_size=2)
    for i, image in enumerate(result.images):
        blurry, sharp, name = source[i]
        assert (image.index, image.name, image.height, image.width) == (i, name, *SIZE)
        assert image.scores == pytest.approx(metrics.scores(blurry, sharp), abs=1e-5)
    psnr = [image.scores["psnr"] for image in result.images]
    assert result.mean["psnr"] == pytest.approx(np.mean(psnr))
    assert result.videos["video0"]["psnr"] == pytest.approx(np.mean(psnr[::2]))
    assert result.videos["video1"]["psnr"] == pytest.approx(np.mean(psnr[1::2]))
    # Three images in one video, two in the other: Table 3 weighs videos, not images.
    want = (np.mean(psnr[::2]) + np.mean(psnr[1::2])) / 2
    assert result.video_mean["psnr"] == pytest.approx(want)
    assert result.video_mean["psnr"] != pytest.approx(result.mean["psnr"], abs=1e-6)


def test_sizes_may_alternate():
    sizes = [SIZE, (16, 20), SIZE, (16, 20), (11, 11), SIZE, (16, 20)]
    source = Pairs(sizes)
    shapes = []

    class Method(Blurry):
        def submit(self, images):
            shapes.append(images.shape)
            return super().submit(images)

    result = score_pairs(Method(), source, batch_size=2)
    assert [image.name for image in result.images] == source.names
    assert {shape[0] for shape in shapes} == {2}  # a size compiles once
    for image in result.images:
        blurry, sharp, _ = source[image.index]
        assert image.scores == pytest.approx(metrics.scores(blurry, sharp), abs=1e-5)
    assert result.commonest_size == SIZE


def test_many_sizes_do_not_pile_up():
    source = Pairs([(11 + i, 12) for i in range(60)])
    batches = _batches(source, range(60), 2)
    next(batches)
    assert len(source.read) < 40  # the first batch did not wait for the last pair
    rest = [index for batch in batches for index, _ in batch]
    assert len(rest) == 59


def test_pairs_that_fail_are_told_and_passed_over():
    class Unlike(Pairs):
        def __getitem__(self, index):
            blurry, sharp, name = super().__getitem__(index)
            return Pair(blurry[1:] if index == 3 else blurry, sharp, name)

    source = Unlike([SIZE] * 4 + [(10, 32)], bad=[1])
    told = []
    result = score_pairs(Blurry(), source, on_failure=lambda *failure: told.append(failure))
    assert [image.index for image in result.images] == [0, 2]
    assert [index for index, _ in told] == [1, 3, 4]
    lines = [line for _, line in told]
    assert lines == result.failures
    assert lines[0] == "video0/000001.png: damaged"
    assert lines[1] == "video0/000003: its blurry image is 23 x 32, its sharp one 24 x 32"
    assert "11 x 11 window" in lines[2]


def test_a_network_of_a_training_run(params):
    source = Pairs()
    deblurrer = Deblurrer(params=params, config=TINY)
    result = score_pairs(deblurrer, source, indices=[1, 3], batch_size=2)
    assert [image.index for image in result.images] == [1, 3]
    for image in result.images:
        blurry, sharp, _ = source[image.index]
        want = metrics.scores(deblurrer(blurry), sharp)
        assert image.scores == pytest.approx(want, abs=1e-3)


def test_nothing_to_score():
    result = score_pairs(Blurry(), Pairs(), indices=[])
    assert len(result) == 0
    assert np.isnan(result.mean["psnr"])
    assert result.commonest_size is None


def test_runtime_is_of_one_image_after_a_warm_up():
    shapes = []

    class Method(Blurry):
        def submit(self, images):
            shapes.append(images.shape)
            return super().submit(images)

    assert measure_runtime(Method(), SIZE, runs=5) > 0
    assert shapes == [(1, *SIZE, 3)] * 6


_ON_DEVICES = """
import json, sys
import jax
jax.config.update("jax_num_cpu_devices", 3)
from dmphn_jax.evaluation.scoring import score_pairs
from dmphn_jax.inference.deblurrer import Deblurrer
from tests.support.evaluation import Pairs
deblurrer = Deblurrer(sys.argv[1])
shapes = []
class Method:
    def submit(self, images):
        shapes.append(images.shape[0])
        return deblurrer.submit(images)
result = score_pairs(Method(), Pairs(videos=2))
assert len(jax.devices()) == 3 and shapes == [3, 3], shapes
print(json.dumps([image.scores for image in result.images]))
"""


def test_several_devices_share_the_batches(checkpoint):
    one = score_pairs(Deblurrer(checkpoint), Pairs(videos=2))
    done = subprocess.run(
        [sys.executable, "-c", _ON_DEVICES, str(checkpoint)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    three = json.loads(done.stdout)
    assert len(three) == 5
    for a, b in zip(one.images, three, strict=True):
        assert a.scores == pytest.approx(b, abs=1e-3)
