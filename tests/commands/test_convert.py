"""Conversion of the authors' files: every model there and back, and what is wrong in one line."""

import dataclasses
import functools
import itertools
import json
import subprocess
import sys

import jax
import numpy as np
import pytest

from dmphn_jax import checkpoints, models
from dmphn_jax.checkpoints.torch import names as torch_names
from dmphn_jax.checkpoints.torch.conversion import params_from_torch, write_torch
from dmphn_jax.checkpoints.torch.pickle import read_state_dict, write_state_dict
from dmphn_jax.commands import convert
from dmphn_jax.errors import UserError, run_command
from dmphn_jax.models import ModelConfig, build, parameter_count, zoo

WIDTH = 2
parameter_shapes = functools.cache(models.parameter_shapes)


def random_params(config: ModelConfig, seed: int = 0):
    """A tree as the model itself asks for it, of random bits' worth of float32."""
    rng = np.random.default_rng(seed)
    shapes = parameter_shapes(config)
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)


def assert_same_bits(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)):
        x, y = np.asarray(x), np.asarray(y)
        assert x.dtype == y.dtype == np.float32
        assert x.tobytes() == y.tobytes()


def narrow(name: str) -> ModelConfig:
    return dataclasses.replace(zoo.get(name), width=WIDTH)


def make_files(folder, name: str, sidecar: bool = False):
    """Writes a model's files, as the authors do without a word on the model."""
    config = narrow(name)
    params = random_params(config)
    write_torch(params, config, folder)
    if not sidecar:
        (folder / torch_names.MODEL_FILE).unlink()
    return params, config


def fails(folder, model=None) -> str:
    with pytest.raises(UserError) as error:
        params_from_torch(folder, model, note=lambda text: None)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    "name",
    [
        *("dmphn_1_1_1", "dmphn_1_4_16", "dmphn_1_2_4_ws", "vmphn", "vmphn_1_2", "dmsn_3"),
        *("stack3", "stack2_vmphn", "stack2_dmsn_2", "stack2_dmphn_1_2_ws", "stack2_dmphn_1_1"),
    ],
)
def test_there_and_back_is_bit_exact(tmp_path, name):
    config = dataclasses.replace(narrow(name), global_skip=True)
    params = random_params(config)
    params["stage_1"][min(params["stage_1"])]["encoder"]["conv_1"]["bias"][:2] = np.nan, -0.0
    names = write_torch(params, config, tmp_path / "torch")
    assert len(names) == 2 * config.pairs
    notes = []
    found, found_config = params_from_torch(tmp_path / "torch", note=notes.append)
    assert found_config == config
    assert_same_bits(found, params)
    assert [note for note in notes if "NaN" not in note] == []
    # and the files are the same bytes when written again
    write_torch(found, found_config, tmp_path / "again")
    for file in names:
        assert (tmp_path / "again" / file).read_bytes() == (tmp_path / "torch" / file).read_bytes()


@pytest.mark.parametrize(
    "name",
    [
        *("dmphn_1", "dmphn_1_2", "dmphn_1_2_4", "dmphn_1_2_4_8", "dmphn_1_2_4_8_16"),
        *("stack2", "stack4", "stack2_dmphn_1_2", "vmphn", "stack2_vmphn", "dmsn_2"),
    ],
)
def test_the_files_tell_model_and_width(tmp_path, name):
    params, config = make_files(tmp_path / "w", name)
    found, found_config = params_from_torch(tmp_path / "w")
    assert found_config == config
    assert_same_bits(found, params)


@pytest.mark.parametrize(
    ("stored", "model"),
    [
        ("dmphn_1_2_4", "dmphn_1_1_1"),
        ("dmphn_1_2_4", "dmphn_1_4_16"),
        ("dmphn_1_2_4_8", "dmphn_1_2"),
        ("dmphn_1_2_4_8_ws", "dmphn_1_2_4_ws"),
        ("stack4", "stack2"),
        ("stack4", "dmphn_1_2_4"),
    ],
)
def test_a_named_model_overrides_the_names(tmp_path, stored, model):
    params, _ = make_files(tmp_path / "w", stored, sidecar=True)
    notes = []
    found, config = params_from_torch(tmp_path / "w", model, notes.append)
    assert config == narrow(model)
    for leaf, value in jax.tree_util.tree_leaves_with_path(found):
        whole = params
        for step in leaf:
            whole = whole[step.key]
        assert whole.tobytes() == value.tobytes()
    assert bool(notes) == (
        len(torch_names.parts(config)) < len(list((tmp_path / "w").glob("*.pkl")))
    )


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


def test_the_command_there_and_back(tmp_path, capsys):
    params, config = make_files(tmp_path / "w", "stack2_dmphn_1_2")

    def run(*arguments):
        status = run_command(convert.main, [str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return status, out, err

    status, out, _ = run(tmp_path / "w", tmp_path / "c")
    assert (status, out.count("\n")) == (0, 1)
    assert "stack2_dmphn_1_2, width 2" in out
    loaded = checkpoints.load(tmp_path / "c")
    assert loaded.config == config
    assert_same_bits(loaded.params, params)
    assert loaded.info["origin"] == "PyTorch weights in w"

    status, _, err = run(tmp_path / "w", tmp_path / "c")
    assert (status, err.count("\n")) == (2, 1)
    assert run(tmp_path / "w", tmp_path / "c", "--model", "dmphn_1_2", "--overwrite")[0] == 0
    assert checkpoints.load(tmp_path / "c").config == narrow("dmphn_1_2")

    assert run("--to-torch", tmp_path / "c", tmp_path / "back")[0] == 0
    assert sorted(path.name for path in (tmp_path / "back").iterdir()) == [
        *("decoder_lv1.pkl", "decoder_lv2.pkl", "dmphn_model.json"),
        *("encoder_lv1.pkl", "encoder_lv2.pkl"),
    ]
    status, _, err = run("--to-torch", tmp_path / "c", tmp_path / "back")
    assert status == 2
    assert "--overwrite" in err
    assert run("--to-torch", tmp_path / "c", tmp_path / "back", "--overwrite")[0] == 0
    # it never replaces a folder that holds anything else
    (tmp_path / "back" / "thesis.tex").write_text("years of work")
    status, _, err = run("--to-torch", tmp_path / "c", tmp_path / "back", "--overwrite")
    assert status == 2
    assert "thesis.tex" in err
    status, _, err = run("--to-torch", tmp_path / "w", tmp_path / "no")
    assert (status, err.count("\n")) == (2, 1)
    assert "not a checkpoint" in err
    status, _, err = run(tmp_path / "nowhere", tmp_path / "no")
    assert (status, err.count("\n")) == (2, 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["back", "c", "w"]


def test_stages_of_no_model_are_left_with_a_word(tmp_path, capsys):
    folder = tmp_path / "w"
    params, _ = make_files(folder, "stack3")
    (folder / "decoder_s3_lv2.pkl").unlink()
    for half in torch_names.HALVES:  # a stray stage after a gap
        (folder / f"{half}_s5_lv1.pkl").write_bytes((folder / f"{half}_s1_lv1.pkl").read_bytes())
    (folder / "optimizer.pkl").write_text("not ours")
    found, config = params_from_torch(folder)
    assert config == narrow("stack2")
    assert_same_bits(found, {key: params[key] for key in ("stage_1", "stage_2")})
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert "and 5 more ignored" in err
    assert "stage 3 lacks decoder_s3_lv2.pkl" in err


def test_two_schemes_in_one_folder(tmp_path):
    make_files(tmp_path / "stack", "stack2")
    single, _ = make_files(tmp_path / "single", "dmphn_1_2_4_8")
    for path in (tmp_path / "single").iterdir():
        path.rename(tmp_path / "stack" / path.name)
    notes = []
    _, config = params_from_torch(tmp_path / "stack", note=notes.append)
    assert config == narrow("stack2")  # of more files
    assert "decoder_lv1.pkl, decoder_lv2.pkl, decoder_lv3.pkl and 5 more ignored" in notes[0]
    found, config = params_from_torch(tmp_path / "stack", "dmphn_1_2_4_8", notes.append)
    assert_same_bits(found, single)
    assert "and 9 more ignored" in notes[1]


def test_files_of_data_parallel_and_other_precisions(tmp_path):
    folder = tmp_path / "w"
    params, config = make_files(folder, "dmphn_1_2")
    originals = {path: read_state_dict(path) for path in folder.glob("*.pkl")}
    for path, tensors in originals.items():
        write_state_dict(path, {f"module.{name}": value for name, value in tensors.items()})
    assert_same_bits(params_from_torch(folder)[0], params)
    for dtype in (np.float64, np.float16):
        for path, tensors in originals.items():
            write_state_dict(path, {name: v.astype(dtype) for name, v in tensors.items()})
        notes = []
        found, _ = params_from_torch(folder, note=notes.append)
        assert_same_bits(found, jax.tree.map(lambda v: v.astype(dtype).astype(np.float32), params))  # noqa: B023
        assert len(notes) == (4 if dtype == np.float64 else 0)
    assert config.width == WIDTH


def test_what_is_wrong_with_a_folder_is_one_line(tmp_path):
    folder = tmp_path / "w"
    make_files(folder, "dmphn_1_2_4")
    assert "is a file" in fails(folder / "encoder_lv1.pkl")
    assert "no such file" in fails(tmp_path / "nowhere")
    assert f"did you mean {folder}?" in fails(tmp_path)
    assert "did you mean 'dmphn_1_2_4'" in fails(folder, "dmphn_1_2_44")
    assert "encoder_lv4.pkl is missing" in fails(folder, "dmphn_1_2_4_8")
    assert "shared.pkl is missing" in fails(folder, "dmphn_1_2_4_ws")
    (folder / "decoder_lv2.pkl").rename(folder / "kept")
    text = fails(folder)
    assert str(folder) in text
    assert "decoder_lv2.pkl is missing" in text
    (folder / "kept").rename(folder / "decoder_lv2.pkl")
    (folder / "encoder_lv7.pkl").write_bytes(b"")
    assert "encoder_lv4.pkl is missing" in fails(folder)
    (folder / "encoder_lv7.pkl").unlink()
    for content in (
        "{",
        "[]",
        '{"family": "gan"}',
        '{"colour": 3}',
        "[" * 100_000,
        '{"stages": 1e9}',
    ):
        (folder / torch_names.MODEL_FILE).write_text(content)
        assert torch_names.MODEL_FILE in fails(folder)
    (folder / torch_names.MODEL_FILE).write_text(json.dumps({"stages": 2}))
    assert "encoder_s1_lv1.pkl is missing" in fails(folder)
    make_files(tmp_path / "ws", "dmphn_1_2_ws")
    assert "--model dmphn_1_2_4_ws" in fails(tmp_path / "ws")


def test_what_is_wrong_with_a_file_is_one_line_naming_it(tmp_path):
    folder = tmp_path / "w"
    make_files(folder, "dmphn_1_2")
    path = folder / "decoder_lv2.pkl"
    good, tensors = path.read_bytes(), read_state_dict(path)

    def says(change=None, content=None):
        if content is None:
            changed = dict(tensors)
            change(changed)
            write_state_dict(path, changed)
        else:
            path.write_bytes(content)
        text = fails(folder)
        assert text.startswith(str(path))
        return text

    assert "layer16.weight is missing" in says(lambda t: t.pop("layer16.weight"))
    assert "'layer99.bias' is none" in says(lambda t: t.update({"layer99.bias": np.ones(1)}))
    assert "shape (3, 3)" in says(lambda t: t.update({"layer20.weight": np.ones((3, 3))}))
    assert "int64" in says(lambda t: t.update({"layer24.bias": np.arange(3)}))
    encoder = (folder / "encoder_lv2.pkl").read_bytes()
    assert "not a decoder's weights" in says(content=encoder)
    make_files(tmp_path / "wide", "dmphn_1_2")
    wide = dataclasses.replace(zoo.get("dmphn_1_2"), width=3)
    write_torch(random_params(wide), wide, tmp_path / "wide", overwrite=True)
    other = (tmp_path / "wide" / "decoder_lv2.pkl").read_bytes()
    assert "of width 2 (as in encoder_lv1.pkl)" in says(content=other)
    for length in range(0, len(good), 997):
        says(content=good[:length])
    says(content=b"GIF89a" + bytes(50))
    assert "refused" in says(content=b"\x80\x02cos\nsystem\nX\x02\x00\x00\x00ls\x85R.")
    path.unlink()
    path.mkdir()
    assert "directory" in fails(folder)


def test_help_and_reading_need_neither_jax_nor_torch():
    code = (
        "import sys; from dmphn_jax.commands import convert\n"
        "try: convert.main(['--help'])\n"
        "except SystemExit as stop: assert stop.code == 0\n"
        "assert not {'jax', 'torch', 'tensorflow', 'orbax'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--to-torch" in done.stdout
