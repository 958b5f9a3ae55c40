"""What programs take is made of the parameters once, and changes nothing."""

import jax
import numpy as np
import pytest

from dmphn_jax.inference import programs
from dmphn_jax.models import ModelConfig
from tests.support.networks import random_params

CONFIG = ModelConfig(hierarchy="1-2", stages=2, width=4)


def noise(*shape):
    return np.random.default_rng(0).integers(0, 65536, shape, np.uint16)


@pytest.mark.parametrize("layout", ["cudnn", "cudnn-blocks"])
@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_programs_give_the_same_of_prepared_parameters(layout, precision):
    network = programs.Network(CONFIG, precision, 1, "cpu", layout)
    params, images = random_params(CONFIG), noise(2, 24, 16, 3)
    ready = programs.prepare(network)(params)
    run = programs.whole(network).quantised
    ours, theirs = run(ready, images)[0], run(params, images)[0]
    assert theirs.std() > 1000
    # XLA on a CPU may sum what it has turned round itself in another order.
    bound = 2 if precision == "float32" else 0.002 * 65535
    assert np.abs(np.asarray(ours).astype(int) - np.asarray(theirs)).max() <= bound
    # Of the stage that runs every kernel and bias is there, and nothing of the other.
    leaves = jax.tree_util.tree_leaves_with_path(ready.ready)
    assert len(leaves) == 2 * (60 + (precision == "float16"))  # the last one's kernels are two
    assert {leaf.dtype.name for _, leaf in leaves if leaf.ndim == 4} == {precision}
    assert not any("stage_2" in jax.tree_util.keystr(path) for path, _ in leaves)
    assert not jax.tree.leaves(ready.params["stage_1"])


def test_other_formulations_take_parameters_as_they_are():
    params = random_params(CONFIG)
    for platform in ("cpu", "tpu"):
        network = programs.Network(CONFIG, "float32", 1, platform)
        assert programs.prepare(network)(params) is params


def test_a_gpu_infers_in_blocks_where_it_may_round():
    def formulation(precision):
        network = programs.Network(CONFIG, precision, 1, "gpu")
        return type(programs._convolutions(network)).__name__

    assert formulation("float32") == "CudnnConvolutions"
    for precision in ("tf32", "bfloat16", "float16"):
        assert formulation(precision) == "CudnnBlocks"


@pytest.mark.parametrize("prepared", [False, True])
def test_blocks_take_images_that_do_not_fill_their_arrays(prepared):
    network = programs.Network(CONFIG, "float32", 2, "cpu", "cudnn-blocks")
    params, image = random_params(CONFIG), noise(1, 24, 16, 3)
    array = np.full((1, 40, 32, 3), 40_000, np.uint16)  # of no meaning
    array[:, :24, :16] = image
    if prepared:
        params = programs.prepare(network)(params)
    shared, finite = programs.bucket(network)(params, array, np.array([24, 16], np.int32))
    alone, _ = programs.whole(network).quantised(params, image)
    assert alone.std() > 1000
    assert finite.all()
    difference = np.asarray(shared)[:, :24, :16].astype(int) - np.asarray(alone)
    assert np.abs(difference).max() <= 3
