"""Every model there and back, and what is wrong with files in one line."""

import dataclasses
import json
import os

import jax
import numpy as np
import pytest

from dmphn_jax.checkpoints.torch import names as torch_names
from dmphn_jax.checkpoints.torch.pickle import read_state_dict, write_state_dict
from dmphn_jax.checkpoints.torch.reading import params_from_torch
from dmphn_jax.checkpoints.torch.writing import write_torch
from dmphn_jax.models import init_params, zoo
from tests.checkpoints.torch.weights import (
    WIDTH,
    assert_same_bits,
    fails,
    make_files,
    narrow,
    random_params,
)


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
    # what float32 cannot hold is refused, not made infinite; what is infinite already is kept
    path, tensors = next(iter(originals.items()))
    bias = np.array([np.inf, -1e300])
    write_state_dict(path, {name: {2: bias}.get(v.size, v) for name, v in tensors.items()})
    assert "beyond float32's 3.4e+38" in fails(folder)


@pytest.mark.parametrize(
    ("drawn", "said"),
    [
        (lambda part: part.stage == 2, ["stage 2 looks untrained", "--model dmphn_1_2 leaves"]),
        (lambda part: part.stage == 1, ["stage 1 looks untrained"]),
        (lambda part: part.node == "level_2" and part.stage == 2, ["_s2_lv2.pkl and 1 more look"]),
        (lambda part: False, []),
    ],
)
def test_what_looks_untrained_is_said(tmp_path, drawn, said):
    config = dataclasses.replace(zoo.get("stack2_dmphn_1_2"), width=8)
    params, initial = random_params(config), init_params(config)
    for part in filter(drawn, torch_names.parts(config)):
        stage = f"stage_{part.stage}"
        # a step or two of training leave biases of 1e-4
        params[stage][part.node][part.half] = jax.tree.map(
            lambda x: x + np.float32(1e-4), initial[stage][part.node][part.half]
        )
    write_torch(params, config, tmp_path / "w")
    notes = []
    params_from_torch(tmp_path / "w", note=notes.append)
    assert len(notes) == bool(said)
    assert all(part in notes[0] for part in said)


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
        '{"stages": 3000}',
        json.dumps({"hierarchy": "-".join("1" * 50_000)}),
    ):
        (folder / torch_names.MODEL_FILE).write_text(content)
        assert torch_names.MODEL_FILE in fails(folder)
    (folder / torch_names.MODEL_FILE).unlink()
    os.mkfifo(folder / torch_names.MODEL_FILE)
    assert "not a plain file" in fails(folder)
    (folder / torch_names.MODEL_FILE).unlink()
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
