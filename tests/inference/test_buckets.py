"""Many sizes, few programs, the same results."""

import numpy as np
import pytest

import dmphn_jax
from dmphn_jax.inference import buckets, programs
from dmphn_jax.models import ModelConfig, convolutions_for
from dmphn_jax.models.folded.strips import strip_count
from tests.support.networks import random_params


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 65536, shape, np.uint16)


def sizes(count, seed=0):
    rng = np.random.default_rng(seed)
    found = set()
    while len(found) < count:
        found.add(tuple(int(n) for n in rng.integers(9, 100, 2)))
    return sorted(found)


def test_a_hundred_sizes_compile_at_most_eight_programs():
    config = ModelConfig(hierarchy="2", width=1)
    deblurrer = dmphn_jax.Deblurrer(params=random_params(config), config=config)
    images = [noise(*size, 3, seed=i) for i, size in enumerate(sizes(100))]
    deblurrer.compile_for(image.shape[:2] for image in images)
    network = programs.Network(config, "float32", 1, deblurrer.devices[0].platform)
    whole = programs.whole(network).quantised
    before = whole._cache_size()  # other tests run the same network
    results = [deblurrer(image) for image in images]
    assert 1 < programs.bucket(network)._cache_size() <= 8
    assert whole._cache_size() == before
    assert len({image.shape for image in images}) == 100
    for image, result in list(zip(images, results))[::25]:
        alone = dmphn_jax.Deblurrer(params=deblurrer.params, config=config)(image)
        assert result.shape == image.shape
        assert alone.std() > 1000
        assert np.abs(result.astype(int) - alone).max() <= 3  # of 65535


@pytest.mark.parametrize(
    "config",
    [
        ModelConfig(hierarchy="1-4", width=1),
        ModelConfig(hierarchy="2", width=16),  # for the CPU kernels
        ModelConfig("vmphn", "2", width=1),
    ],
    ids=str,
)
def test_a_shared_program_gives_what_an_own_one_does(config):
    params = random_params(config)
    alone = dmphn_jax.Deblurrer(params=params, config=config)
    shared = dmphn_jax.Deblurrer(params=params, config=config)
    shared.compile_for([(64, 48), (30, 40), (48, 64)], most=1)
    for size in ((64, 48), (30, 40), (48, 64)):  # one that fills a side, one that fills neither
        images = noise(2, *size, 3)
        difference = shared.batch(images).astype(int) - alone.batch(images)
        assert np.abs(difference).max() <= 3
    assert shared(noise(70, 10, 3)).shape == (70, 10, 3)  # a size nobody spoke of


@pytest.mark.parametrize(("width", "count"), [(128, 4), (56, 1)])
def test_a_tpus_layout_takes_images_that_do_not_fill_their_arrays(width, count):
    """Cut into strips, the last of which the image does not reach, and without strips."""
    assert strip_count(2, width // 4) == count
    config = ModelConfig(hierarchy="2", width=2)
    network = programs.Network(config, "float32", 1, "cpu", "folded")
    params, image = random_params(config), noise(1, 48, width // 2, 3)
    array = np.full((1, 64, width, 3), 40_000, np.uint16)  # of no meaning
    array[:, :48, : width // 2] = image
    size = np.array(image.shape[1:3], np.int32)
    shared, finite = programs.bucket(network)(params, array, size)
    alone, _ = programs.whole(network).quantised(params, image)
    difference = np.asarray(shared)[:, :48, : width // 2].astype(int) - np.asarray(alone)
    assert np.abs(difference).max() <= 3
    assert alone.std() > 1000
    assert finite.all()


def test_a_tpus_buckets_are_in_its_layout(monkeypatch):
    seen = []
    build = programs.build

    def spied(*arguments, convolutions, **options):
        seen.append(convolutions)
        return build(*arguments, convolutions=convolutions, **options)

    monkeypatch.setattr(programs, "build", spied)
    config = ModelConfig(hierarchy="1", width=1)
    arguments = random_params(config), noise(1, 16, 16, 3), np.array([8, 8], np.int32)
    for platform in ("tpu", "gpu"):
        network = programs.Network(config, "float32", 1, platform)
        programs.bucket.__wrapped__(network).trace(*arguments)
        assert seen[-1].convolutions == convolutions_for(platform)
        assert seen[-1].encoder is convolutions_for(platform).encoder
    assert seen[0].encoder is not None


def test_few_sizes_keep_their_own_programs():
    config = ModelConfig(hierarchy="1", width=1)
    deblurrer = dmphn_jax.Deblurrer(params=random_params(config), config=config)
    deblurrer.compile_for(sizes(8))
    deblurrer(noise(20, 20, 3))
    network = programs.Network(config, "float32", 1, deblurrer.devices[0].platform)
    assert programs.bucket(network)._cache_size() == 0


@pytest.mark.parametrize("count", [1, 9, 300])
def test_buckets_hold_every_size(count):
    multiple = (16, 8)
    images = [(16 * h, 8 * w) for h, w in sizes(count)]
    chosen = buckets.choose(images, multiple)
    assert len(chosen) <= 8
    for size in images:
        bucket = buckets.smallest(chosen, size)
        assert all(b >= s and b % m == 0 for b, s, m in zip(bucket, size, multiple))
    assert buckets.smallest(chosen, (10**6, 16)) is None


def test_buckets_follow_the_commonest_sizes():
    images = [(720, 1280)] * 1000 + [(1280, 720)] * 1000 + [(700, 1270), (400, 400), (380, 390)]
    assert {(720, 1280), (1280, 720)} < set(buckets.choose(images, (2, 2), 3))
