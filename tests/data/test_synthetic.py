import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from dmphn_jax.commands.scenes import main
from dmphn_jax.data.base import PairSource
from dmphn_jax.data.psnr import psnr
from dmphn_jax.data.scenes import layers
from dmphn_jax.data.scenes.motion import Path, compose
from dmphn_jax.data.scenes.render import Scene
from dmphn_jax.data.synthetic import SyntheticScenes
from dmphn_jax.errors import UserError, run_command


def equal(a, b):
    return np.array_equal(a.blurry, b.blurry) and np.array_equal(a.sharp, b.sharp)


def rng(seed=0):
    return np.random.default_rng(seed)


def test_pairs_are_what_a_source_promises():
    scenes = SyntheticScenes(size=(48, 80), count=3, seed=5)
    assert isinstance(scenes, PairSource)
    assert len(scenes) == len(scenes.names) == len(set(scenes.names)) == 3
    for pair, name in zip(scenes, scenes.names):
        assert pair.name == name
        assert pair.name.count("/") == 1
        for image in (pair.blurry, pair.sharp):
            assert image.shape == (48, 80, 3)
            assert image.dtype == np.uint8
    assert scenes.shape(2) == (48, 80)
    with pytest.raises(IndexError):
        scenes[3]


def test_seed_split_and_index_decide():
    scenes = SyntheticScenes((40, 40), 6, seed=1)
    again = pickle.loads(pickle.dumps(SyntheticScenes((40, 40), 6, seed=1)))
    with ThreadPoolExecutor(3) as pool:  # in any order, from several threads
        threaded = list(pool.map(again.__getitem__, [5, 4, 3, 2, 1, 0]))[::-1]
    assert all(equal(a, b) for a, b in zip(scenes, threaded))
    # A longer set starts with the shorter one.
    assert equal(SyntheticScenes((40, 40), 60, seed=1)[5], scenes[-1])
    others = [
        scenes[1],
        SyntheticScenes((40, 40), 6, seed=2)[0],
        SyntheticScenes((40, 40), 6, seed=1, split="test")[0],
    ]
    assert not any(equal(scenes[0], other) for other in others)


@pytest.mark.parametrize("side", [128, 256])
def test_psnr_spreads_as_in_gopro(side):
    values = [psnr(pair.blurry, pair.sharp) for pair in SyntheticScenes((side, side), 24, seed=3)]
    low, quarter, median, three, high = np.quantile(values, [0.05, 0.25, 0.5, 0.75, 0.95])
    assert 17 < low < 23
    assert 20.5 < quarter < 26
    assert 23.5 < median < 29
    assert 26 < three < 32
    assert 29 < high < 37


def test_blurry_is_the_mean_of_the_steps_in_linear_light():
    scene = Scene(rng(3), 48, 64)
    blurry, sharp = scene.render(rng())
    assert 7 <= scene.steps <= 13
    steps = np.stack([scene.step(i) for i in range(scene.steps)]).astype(np.float64)
    expected = 255 * np.clip(steps.mean(0), 0, 1) ** (1 / 2.2)
    assert np.abs(blurry - expected).max() < 0.51
    assert np.abs(sharp - 255 * np.clip(steps[scene.steps // 2], 0, 1) ** (1 / 2.2)).max() < 0.51
    assert len({step.tobytes() for step in steps}) == scene.steps  # all of them move


def test_every_number_of_steps_occurs():
    assert {Scene(rng(i), 32, 32).steps for i in range(60)} == set(range(7, 14))


def test_without_motion_blurry_is_sharp():
    for pair in SyntheticScenes((64, 64), 4, motion=0):
        assert np.abs(pair.blurry.astype(int) - pair.sharp).max() <= 1


def test_sharp_is_sharper():
    def detail(image):
        return (
            np.abs(np.diff(image.astype(float), axis=0)).mean()
            + np.abs(np.diff(image.astype(float), axis=1)).mean()
        )

    for pair in SyntheticScenes((96, 96), 8, seed=2):
        assert detail(pair.sharp) > detail(pair.blurry)


def test_noise_averages_out():
    clean, noisy = (SyntheticScenes((128, 128), 1, seed=9, noise=n)[0] for n in (0.0, 6.0))
    inside = (clean.sharp > 30) & (clean.sharp < 225)  # where nothing is clipped
    sharp = (noisy.sharp.astype(float) - clean.sharp)[inside].std()
    assert 5.5 < sharp < 6.5
    inside = (clean.blurry > 30) & (clean.blurry < 225)
    blurry = (noisy.blurry.astype(float) - clean.blurry)[inside].std()
    assert 6 / 13**0.5 - 0.2 < blurry < 6 / 7**0.5 + 0.2


def test_paths_are_smooth_and_start_at_the_identity():
    path = Path(rng(4), extent=20, reach=100, spin=0.5)
    centre = np.array([50.0, 40.0])
    np.testing.assert_allclose(path.at(0.0, centre), [[1, 0, 0], [0, 1, 0]], atol=1e-12)
    times = np.linspace(-1, 1, 201)
    points = np.array([path.at(t, centre) @ [10, 20, 1] for t in times])
    steps = np.linalg.norm(np.diff(points, axis=0), axis=1)
    assert steps.max() < 5 * 20 / 200  # no jumps
    assert 5 < steps.sum() < 60
    inverse = np.linalg.inv(np.vstack([path.at(0.7, centre), [0, 0, 1]]))[:2]
    np.testing.assert_allclose(
        compose(path.at(0.7, centre), inverse), [[1, 0, 0], [0, 1, 0]], atol=1e-9
    )


def test_light_and_stored_values_are_inverse():
    levels = np.arange(256, dtype=np.float32)
    np.testing.assert_allclose(
        layers.to_stored(layers.to_linear(levels)).ravel(), levels, atol=1e-2
    )


def test_cache_keeps_and_mends(tmp_path):
    plain = SyntheticScenes((40, 48), 3, seed=8)
    cached = SyntheticScenes((40, 48), 3, seed=8, cache=tmp_path)
    assert all(equal(a, b) for a, b in zip(plain, cached))
    files = sorted(tmp_path.rglob("*"))
    assert len([f for f in files if f.suffix == ".npy"]) == 3
    assert not [f for f in files if f.name.startswith(".")]
    files[-1].write_bytes(files[-1].read_bytes()[:1000])  # a torn file is rendered again
    files[-2].write_bytes(b"")
    assert all(equal(a, b) for a, b in zip(plain, cached))
    # Other settings do not read these files.
    assert not equal(SyntheticScenes((40, 48), 3, seed=9, cache=tmp_path)[0], plain[0])
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(UserError, match="file: cannot keep scenes here"):
        SyntheticScenes(cache=blocked)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"size": (16, 64)}, "64x16 are too small"),
        ({"count": 0}, "at least 1"),
        ({"split": "val"}, "'val'"),
        ({"noise": -1}, "0 to 255 grey levels"),
        ({"noise": float("inf")}, "0 to 255 grey levels"),
        ({"size": (128,)}, r"size \[128\] of synthetic scenes: needs a height and a width"),
        ({"size": (64, 64, 3)}, "needs a height and a width"),
        ({"size": 128}, "size 128 of synthetic scenes: needs a height"),
        ({"size": (64, 10**9)}, "1000000000x64 are too large"),
        ({"count": 10**12}, "at most 1,000,000"),
        ({"motion": float("nan")}, "motion nan .*0 to 100"),
        ({"motion": -1}, "motion -1 .*0 to 100"),
    ],
)
def test_mistakes_are_one_line(options, text):
    with pytest.raises(UserError, match=text):
        SyntheticScenes(**options)


def test_contact_sheet(tmp_path, capsys):
    out = tmp_path / "sheet.png"
    argv = ["--contact-sheet", str(out), "--count", "4", "--columns", "2", "--size", "40", "50"]
    assert run_command(main, argv) == 0
    assert Image.open(out).size == (2 * 50 + 6, 2 * (18 + 80 + 6))
    assert "4 scenes" in capsys.readouterr().out
    capsys.readouterr()
    for argv, says in (
        (["--contact-sheet", str(tmp_path / "x.xyz")], "name it .png"),
        (["--contact-sheet", str(out / "x.png")], "is no folder that can be written to"),
        (["--contact-sheet", "gs://bucket/x.png"], "a folder of this machine is needed"),
        (["--contact-sheet", str(out), "--count", "1000000"], "a sheet has at most"),
    ):
        assert run_command(main, argv) == 2
        error = capsys.readouterr().err
        assert says in error
        assert error.count("\n") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["sheet.png"]
