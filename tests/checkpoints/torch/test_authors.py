"""The authors' released folders, known by the digests of their files."""

import dataclasses
import hashlib
import re

import jax
import pytest

from dmphn_jax.checkpoints.torch import authors
from dmphn_jax.checkpoints.torch import names as torch_names
from dmphn_jax.checkpoints.torch.reading import params_from_torch
from dmphn_jax.checkpoints.torch.writing import write_torch
from dmphn_jax.commands import convert
from dmphn_jax.errors import run_command
from dmphn_jax.models import init_params, zoo
from tests.checkpoints.torch.weights import assert_same_bits, narrow, random_params


def test_the_table_names_every_file_of_five_models():
    release = authors.release()
    assert release.repository == "github.com/HongguangZhang/DMPHN-cvpr19-master"
    assert re.fullmatch("[0-9a-f]{40}", release.commit)
    assert list(release.folders) == ["dmphn_1_2_4", "dmphn_1_2_4_8", "stack2", "stack3", "stack4"]
    for model, folder in release.folders.items():
        assert folder.model == model
        assert {file.name for file in folder.files} == set(torch_names.file_names(zoo.get(model)))
        for file in folder.files + folder.untrained:
            assert re.fullmatch("[0-9a-f]{64}", file.sha256)
            assert 3_400_000 < file.size < 3_800_000
        assert len(folder.untrained) == (6 if model == "stack3" else 0)
    assert release.folders["stack3"].path == "checkpoints/SDNet3"
    assert {f.name[8:11] for f in release.folders["stack3"].untrained} == {"s4_"}


@pytest.fixture
def sdnet3(tmp_path, monkeypatch):
    """A narrow SDNet3 that `authors` takes for the real one: trained stages and an initial one."""
    folder = tmp_path / "SDNet3"
    config = narrow("stack4")
    params = random_params(config)
    params["stage_4"] = jax.device_get(init_params(config))["stage_4"]
    write_torch(params, config, folder)
    (folder / torch_names.MODEL_FILE).unlink()
    files = [
        authors.File(path.name, path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest())
        for path in sorted(folder.iterdir())
    ]
    known = authors.Folder(
        "stack3",
        "checkpoints/SDNet3",
        tuple(file for file in files if "_s4_" not in file.name),
        tuple(file for file in files if "_s4_" in file.name),
    )
    release = dataclasses.replace(authors.release(), folders={"stack3": known})
    monkeypatch.setattr(authors, "release", lambda: release)
    return folder, params


def test_sdnet3_is_a_stack_of_three(sdnet3, tmp_path, capsys):
    folder, params = sdnet3
    assert run_command(convert.main, [str(folder), str(tmp_path / "c")]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("stack3, width 2: ")
    assert "read from 18 .pkl files" in out
    assert err.count("\n") == 1
    assert "checkpoints/SDNet3, which is stack3: decoder_s4_lv1.pkl and 5 more" in err
    assert "never trained" in err
    # and the untrained stage is said where it is asked for
    notes = []
    found, config = params_from_torch(folder, "stack4", notes.append)
    assert config == narrow("stack4")
    assert_same_bits(found, params)
    assert len(notes) == 1
    assert "stage 4 looks untrained" in notes[0]
    assert "--model stack3" in notes[0]


def test_a_folder_is_known_by_the_content_of_all_its_files(sdnet3):
    folder, params = sdnet3
    names = [path.name for path in folder.iterdir()]
    assert authors.recognise(folder, names).model == "stack3"
    for path in folder.glob("*_s4_*"):  # the untrained ones may be gone
        path.unlink()
    assert authors.recognise(folder, names).model == "stack3"
    notes = []
    found, _ = params_from_torch(folder, note=notes.append)
    assert notes == []
    assert_same_bits(found, {name: params[name] for name in ("stage_1", "stage_2", "stage_3")})
    path = folder / "encoder_s2_lv2.pkl"
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert authors.recognise(folder, names) is None
    path.unlink()
    assert authors.recognise(folder, [name for name in names if name != path.name]) is None


@pytest.mark.parametrize("model", ["dmphn_1_2_4", "dmphn_1_2_4_8", "stack2", "stack4"])
def test_released_folders_are_recognised(reference, model):
    known = authors.release().folders[model]
    folder = reference / known.path
    assert authors.recognise(folder, [path.name for path in folder.iterdir()]) == known
