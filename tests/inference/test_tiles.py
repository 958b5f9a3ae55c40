"""Tiles: they lie where the whole image's cuts are, and give what the whole would."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dmphn_jax
from dmphn_jax.errors import UserError
from dmphn_jax.inference import memory, programs, tiles
from dmphn_jax.inference.pending import Tiled
from dmphn_jax.models import ModelConfig, build, init_params
from tests.support.networks import random_params


def noise(*shape, dtype=np.uint16):
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max + 1, shape, dtype)


@pytest.mark.parametrize(
    "config",
    [
        ModelConfig(hierarchy="1", width=1),
        ModelConfig(hierarchy="1-1", width=1),
        ModelConfig(hierarchy="1", stages=2, width=1),
        ModelConfig("vmphn", "1", width=1),
    ],
    ids=str,
)
def test_margin_is_the_networks_reach(config):
    """A pixel that is no number spoils all that it reaches. (DMSN's resizing spoils all.)"""
    margin = tiles.margin(config, config.stages)
    height = 4 * margin
    network = build(config)
    spoiled = jnp.zeros((1, height, 4, 3)).at[:, height // 2 :].set(jnp.nan)
    params = init_params(config)
    run = jax.jit(lambda params, x: network.apply({"params": params}, x).image)
    for x in (spoiled, spoiled[:, ::-1]):
        whole = np.isfinite(run(params, x)).all(axis=(0, 2, 3))
        assert margin - 4 < height // 2 - whole.sum() <= margin


@pytest.mark.parametrize("hierarchy", ["1-2-4", "1-4-16", "1-2-4-8", "2-1", "dmsn"])
@pytest.mark.parametrize(("tile", "overlap"), [(64, 0), (300, 100), (1000, 416), (2048, 64)])
def test_tiles_cover_the_image_and_have_its_cuts(hierarchy, tile, overlap):
    dmsn = hierarchy == "dmsn"
    config = ModelConfig("dmsn", "3") if dmsn else ModelConfig(hierarchy=hierarchy)
    grids = ((1, 1),) * 3 if dmsn else config.grids
    rows, columns = config.multiple
    for size in ((720, 1280), (96, 4000), (2160, 4096)):
        size = (size[0] // rows * rows, size[1] // columns * columns)
        layout = tiles.lay_out(config, 1, size, tile, overlap)
        for axis, row in enumerate((layout.rows, layout.columns)):
            covered, length = np.zeros(size[axis]), layout.size[axis]
            assert length <= tile or length == size[axis]
            for one in row:
                covered[one.start : one.start + length] += one.weights
                for patches, grid in zip(one.patches, grids):
                    whole = {size[axis] * i // grid[axis] for i in range(1, grid[axis])}
                    inside = {c for c in whole if one.start < c < one.start + length}
                    assert inside == {one.start + length * i // patches for i in range(1, patches)}
            np.testing.assert_allclose(covered, 1, atol=1e-5)


def compared(config, size, **options):
    """Whole and tiled results on [0, 1], and the Deblurrer of tiles."""
    params, image = random_params(config), noise(*size, 3)
    whole = dmphn_jax.Deblurrer(params=params, config=config, tile=10**6)(image)
    tiled = dmphn_jax.Deblurrer(params=params, config=config, **options)
    pending = tiled.submit(image[None])
    assert isinstance(pending, Tiled)
    assert whole.std() > 1000
    return whole / 65535, pending.result()[0] / 65535, pending.layout


def test_tiles_give_the_whole_images_result():
    config = ModelConfig(hierarchy="1-2", width=2)
    assert tiles.default_overlap(config, 1) == 2 * 128 + tiles.RAMP
    whole, tiled, layout = compared(config, (1171, 45), tile=580)
    assert (len(layout.rows), len(layout.columns)) == (5, 1)
    assert np.abs(whole - tiled).max() <= 1e-4


@pytest.mark.parametrize(
    ("config", "size"),
    [
        (ModelConfig(hierarchy="1-2-4", width=1), (40, 776)),
        (ModelConfig(hierarchy="1-1", stages=2, width=1), (776, 40)),
        (ModelConfig("vmphn", "1-2", width=1), (776, 40)),
        (ModelConfig("dmsn", "2", width=1), (776, 40)),
    ],
    ids=str,
)
def test_every_familys_tiles_are_cut_where_the_image_is(config, size):
    # Random weights reach less far than weights can: a smaller overlap does.
    whole, tiled, layout = compared(config, size, tile=384, overlap=192)
    assert layout.tiles >= 3
    assert np.abs(whole - tiled).max() <= 1e-4


class Refusing:
    """A program that the compiler finds too large, as a TPU's says it."""

    def lower(self, *arguments):
        return self

    def compile(self):
        raise jax.errors.JaxRuntimeError(
            "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory "
            "space hbm. Used 20.50G of 15.48G hbm."
        )


SMALL = ModelConfig(hierarchy="1-2", width=2)


def with_free(monkeypatch, free):
    """A small network on a device that has `free[0]` bytes left, and an image of 16 bits."""
    monkeypatch.setattr(memory, "free_on", lambda device: free[0])
    deblurrer = dmphn_jax.Deblurrer(params=random_params(SMALL), config=SMALL, overlap=128)
    return deblurrer, noise(712, 256, 3)


def counted(monkeypatch, of=programs.bytes_needed):
    """What was compiled to learn the bytes it needs."""
    asked = []
    monkeypatch.setattr(programs, "bytes_needed", lambda *a: asked.append(a[2].shape) or of(*a))
    return asked


def test_what_does_not_fit_into_memory_is_tiled(monkeypatch):
    free = [10**12]
    deblurrer, image = with_free(monkeypatch, free)
    pending = deblurrer.submit(image[None])
    assert not isinstance(pending, Tiled)
    whole = pending.result()[0]
    needed = programs.bytes_needed(deblurrer.programs.quantised, *deblurrer.place(image[None]))
    free[0] = int(1.25 * needed)  # a program may take 0.4 of it, half of what the whole needs
    deblurrer, image = with_free(monkeypatch, free)
    pending = deblurrer.submit(image[None])
    assert isinstance(pending, Tiled)
    assert pending.layout.tiles > 1
    assert np.abs(pending.result()[0] / 65535 - whole / 65535).max() <= 1e-4
    assert not isinstance(deblurrer.submit(image[None, :200, :200]), Tiled)


def test_free_memory_is_looked_at_for_every_image_and_nothing_compiled_anew(monkeypatch):
    free = [10**12]
    asked = counted(monkeypatch)
    deblurrer, image = with_free(monkeypatch, free)

    def layout():
        pending = deblurrer.submit(image[None])
        if not isinstance(pending, Tiled):
            pending.check()
        return pending.layout.size if isinstance(pending, Tiled) else None

    assert layout() is None
    program, arguments = deblurrer.programs.quantised, deblurrer.place(image[None])
    needed = programs.bytes_needed(program, *arguments)
    asked.clear()
    found = []
    for share in (1.25, 4, 1.25, 0.7, 1.25, 4):  # of what the whole needs; 2.5 is enough
        free[0] = int(share * needed)
        found.append(layout())
    assert found[1] is found[5] is None
    assert found[0] == found[2] == found[4] > found[3]
    assert len(asked) == len(set(asked))  # every size of tiles once


def test_images_under_way_are_not_in_their_own_way(monkeypatch):
    """An image that takes most of the memory does not have the next one cut up."""
    free = [10**12]
    deblurrer, image = with_free(monkeypatch, free)
    program, arguments = deblurrer.programs.quantised, deblurrer.place(image[None])
    needed = programs.bytes_needed(program, *arguments)
    free[0] = int(2.6 * needed)
    deblurrer, _ = with_free(monkeypatch, free)

    class Results:
        def is_ready(self):
            return False

    running = Results()
    assert deblurrer._fitting.tile(deblurrer.params, program, arguments) is None
    deblurrer._fitting.started(program, arguments, running)
    free[0] -= int(needed)  # which it holds
    assert deblurrer._fitting.tile(deblurrer.params, program, arguments) is None
    del running
    assert deblurrer._fitting.tile(deblurrer.params, program, arguments) is not None


def test_what_the_compiler_finds_too_large_is_tiled(monkeypatch):
    asked = counted(monkeypatch)
    deblurrer, image = with_free(monkeypatch, [10**12])
    whole = deblurrer(image)
    programs_tile = programs.tile

    def tile(network, grids):  # tiles of more than 300 rows are too large too
        run = programs_tile(network, grids)

        def lower(params, window, *weights):
            return Refusing() if window.shape[1] > 300 else run.lower(params, window, *weights)

        return Lowered(lower, run)

    class Lowered:
        def __init__(self, lower, run):
            self.lower, self.run = lower, run

        def __call__(self, *arguments):
            return self.run(*arguments)

        def __hash__(self):
            return hash(self.run)

        def __eq__(self, other):
            return self.run == other.run

    monkeypatch.setattr(programs, "tile", tile)
    deblurrer.programs = deblurrer.programs._replace(quantised=Refusing())
    for _ in range(2):
        pending = deblurrer.submit(image[None])
        assert isinstance(pending, Tiled)
        assert max(pending.layout.size) <= 300
    assert np.abs(pending.result()[0] / 65535 - whole / 65535).max() <= 1e-4
    assert len(asked) == len(set(asked)) + 1  # the image's size: whole before, and refused


def test_a_batch_that_does_not_fit_is_computed_image_by_image(monkeypatch):
    deblurrer, image = with_free(monkeypatch, [10**12])
    images = np.stack([image[:256, :256]] * 4)
    program, arguments = deblurrer.programs.quantised, deblurrer.place(images)
    needed = programs.bytes_needed(program, *arguments)
    deblurrer, _ = with_free(monkeypatch, [int(needed)])  # two fifths: one image, not four
    pending = deblurrer.submit(images)
    assert isinstance(pending, Tiled)
    assert pending.layout.size == (256, 256)


def test_another_error_of_the_compiler_is_told():
    class Broken(Refusing):
        def compile(self):
            raise jax.errors.JaxRuntimeError("INTERNAL: a fault")

    assert programs.bytes_needed(Refusing()) == np.inf
    with pytest.raises(jax.errors.JaxRuntimeError, match="a fault"):
        programs.bytes_needed(Broken())


def test_tiles_of_broken_weights_are_refused():
    config = ModelConfig(hierarchy="1", width=1)
    params = jax.tree.map(lambda x: x * np.nan, init_params(config))
    deblurrer = dmphn_jax.Deblurrer(params=params, config=config, tile=64, overlap=16)
    with pytest.raises(UserError, match="not finite"):
        deblurrer.submit(noise(1, 96, 96, 3)).check()


def test_tiles_that_make_no_sense_are_one_line():
    config = ModelConfig(hierarchy="1-2-4-8", width=1)
    params = init_params(config)
    with pytest.raises(UserError, match="tile 60: at least 64"):
        dmphn_jax.Deblurrer(params=params, config=config, tile=60)
    with pytest.raises(UserError, match="overlap 65: at most half of a tile, 64 of 128"):
        dmphn_jax.Deblurrer(params=params, config=config, tile=128, overlap=65)
    with pytest.raises(UserError, match="overlap -16: at least 0"):
        dmphn_jax.Deblurrer(params=params, config=config, tile=128, overlap=-16)
