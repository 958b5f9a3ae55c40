"""Converted weights compute what the authors' layers and networks are defined to."""

import itertools

import jax
import numpy as np
import pytest

from dmphn_jax.checkpoints.torch.pickle import read_state_dict
from dmphn_jax.checkpoints.torch.reading import params_from_torch
from dmphn_jax.checkpoints.torch.writing import write_torch
from dmphn_jax.models import build, parameter_count, zoo
from tests.checkpoints.torch.weights import narrow, random_params


def test_layers_follow_the_authors_definition(tmp_path):
    """Every layer's output equals the textbook definition of torch's layer on the torch kernel."""
    config = narrow("dmphn_1")
    write_torch(random_params(config), config, tmp_path / "w")
    tree, _ = params_from_torch(tmp_path / "w")
    pair = tree["stage_1"]["level_1"]
    rng = np.random.default_rng(1)
    image = rng.normal(size=(3, 8, 12)).astype(np.float32)
    encoder = read_state_dict(tmp_path / "w" / "encoder_lv1.pkl")
    decoder = read_state_dict(tmp_path / "w" / "decoder_lv1.pkl")
    expected = decode(decoder, encode(encoder, image))
    apply = jax.jit(build(config).apply)
    x = np.transpose(image, (1, 2, 0))[None]
    found = apply({"params": {"stage_1": {"level_1": pair}}}, x).image[0]
    scale = np.abs(expected).max()
    np.testing.assert_allclose(
        np.transpose(found, (2, 0, 1)) / scale, expected / scale, atol=2e-6, rtol=0
    )


def convolve(w, name, x, stride=1):
    """torch's Conv2d(kernel 3, padding 1) of (C, H, W), in float64, by its definition."""
    kernel, bias = w[name + ".weight"].astype(np.float64), w[name + ".bias"]
    x = np.pad(x, ((0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), (1, 2))[:, ::stride, ::stride]
    y = np.tensordot(kernel, windows, axes=((1, 2, 3), (0, 3, 4)))
    return y + bias[:, None, None]


def convolve_transposed(w, name, x):
    """torch's ConvTranspose2d(kernel 4, stride 2, padding 1): every pixel scatters its kernel."""
    kernel, bias = w[name + ".weight"].astype(np.float64), w[name + ".bias"]
    _, height, width = x.shape
    y = np.zeros((kernel.shape[1], 2 * height + 2, 2 * width + 2))
    for i, j in itertools.product(range(4), range(4)):
        y[:, i : i + 2 * height : 2, j : j + 2 * width : 2] += np.tensordot(
            kernel[:, :, i, j], x, axes=((0,), (0,))
        )
    return y[:, 1:-1, 1:-1] + bias[:, None, None]


def residual(w, name, x):
    return x + convolve(w, f"{name}.2", np.maximum(convolve(w, f"{name}.0", x), 0))


def encode(w, x):
    for first, stride, blocks in ((1, 1, (2, 3)), (5, 2, (6, 7)), (9, 2, (10, 11))):
        x = convolve(w, f"layer{first}", x, stride)
        for block in blocks:
            x = residual(w, f"layer{block}", x)
    return x


def decode(w, x):
    for blocks, up in (((13, 14), 16), ((17, 18), 20), ((21, 22), None)):
        for block in blocks:
            x = residual(w, f"layer{block}", x)
        x = convolve_transposed(w, f"layer{up}", x) if up else convolve(w, "layer24", x)
    return x


def on_halves(function, x, axis):
    """Applies `function` to both halves along an axis."""
    return np.concatenate([function(half) for half in np.split(x, 2, axis)], axis)


def dmphn_1_2_4(folder, blurry):
    """The authors' network on (3, H, W), written out: rows are axis 1, columns axis 2."""
    w = {path.stem: read_state_dict(path) for path in folder.glob("*.pkl")}

    def quarters(function, x):
        return on_halves(lambda rows: on_halves(function, rows, 2), x, 1)

    features = quarters(lambda x: encode(w["encoder_lv3"], x), blurry)
    image = on_halves(lambda x: decode(w["decoder_lv3"], x), features, 1)
    added = on_halves(lambda x: encode(w["encoder_lv2"], x), blurry + image, 1)
    features = features + added
    image = decode(w["decoder_lv2"], features)
    features = features + encode(w["encoder_lv1"], blurry + image)
    return decode(w["decoder_lv1"], features)


def test_released_network_equals_its_definition(reference):
    from PIL import Image

    folder = reference / "checkpoints" / "DMPHN_1_2_4"
    with Image.open(reference / "blurry" / "000001.png") as picture:
        crop = np.asarray(picture.crop((600, 300, 648, 332)), np.float32) / 255 - 0.5
    expected = dmphn_1_2_4(folder, np.transpose(crop, (2, 0, 1)).astype(np.float64))
    params, config = params_from_torch(folder)
    found = jax.jit(build(config).apply)({"params": params}, crop[None]).image[0]
    np.testing.assert_allclose(np.transpose(found, (2, 0, 1)), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("DMPHN_1_2_4", "dmphn_1_2_4"),
        ("DMPHN_1_2_4_8", "dmphn_1_2_4_8"),
        ("SDNet2", "stack2"),
        ("SDNet4", "stack4"),
    ],
)
def test_released_weights_convert_and_come_back(reference, tmp_path, folder, name):
    source = reference / "checkpoints" / folder
    notes = []
    params, config = params_from_torch(source, note=notes.append)
    assert notes == []
    assert config == zoo.get(name)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == parameter_count(config)
    names = write_torch(params, config, tmp_path / "back")
    assert sorted(names) == sorted(path.name for path in source.glob("*.pkl"))
    for file in names:
        ours, theirs = read_state_dict(tmp_path / "back" / file), read_state_dict(source / file)
        assert list(ours) == list(theirs)
        assert all(ours[key].tobytes() == theirs[key].tobytes() for key in theirs)
