"""Checkpoints come back to the bit, and say in one line what is wrong with them."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import tensorstore

from dmphn_jax import checkpoints
from dmphn_jax.checkpoints import items, model
from dmphn_jax.errors import UserError
from dmphn_jax.models import ModelConfig, init_params

CONFIG = ModelConfig("dmphn", "1-2", stages=2, width=2)


@pytest.fixture(scope="module")
def params():
    return jax.device_get(init_params(CONFIG))


@pytest.fixture(scope="module")
def saved(params, tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "checkpoint"
    checkpoints.save(path, params, CONFIG, {"origin": "a test"})
    return path


@pytest.fixture
def copy(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "copy")


def test_round_trip(saved, params):
    loaded = checkpoints.load(saved)
    assert loaded.config == CONFIG
    assert loaded.info == {"origin": "a test"}
    assert loaded.digest == checkpoints.digest(params)
    assert jax.tree.structure(loaded.params) == jax.tree.structure(params)
    jax.tree.map(np.testing.assert_array_equal, loaded.params, params)


def test_orbax_reads_only_what_is_not_whole_without_it(saved, params, monkeypatch):
    read = items.read_arrays
    monkeypatch.setattr(items, "read_arrays", None)
    jax.tree.map(np.testing.assert_array_equal, checkpoints.load(saved).params, params)
    monkeypatch.setattr(items, "read_arrays", read)
    monkeypatch.setattr(items, "read_wanted", lambda *_: None)
    jax.tree.map(np.testing.assert_array_equal, checkpoints.load(saved).params, params)
    # Not the whole tree, or another one: the digest tells.
    others = jax.tree.map(np.zeros_like, params)
    monkeypatch.setattr(items, "read_wanted", lambda *_: others)
    jax.tree.map(np.testing.assert_array_equal, checkpoints.load(saved).params, params)


def test_digest_depends_on_every_bit_name_and_shape(params):
    original = checkpoints.digest(params)
    changed = jax.tree.map(np.copy, params)
    kernel = changed["stage_2"]["level_1"]["decoder"]["conv"]["kernel"]
    kernel.view(np.uint32).flat[-1] ^= 1
    assert checkpoints.digest(changed) != original
    renamed = {"stage_1": params["stage_2"], "stage_2": params["stage_1"]}
    assert checkpoints.digest(renamed) != original
    x = np.zeros((2, 3), "f4")
    assert checkpoints.digest({"a": x}) != checkpoints.digest({"a": x.T})
    assert checkpoints.digest({"a": x}) != checkpoints.digest({"a": x.view("i4")})


def test_loads_on_another_number_of_devices(params, tmp_path):
    path = tmp_path / "sharded"
    script = f"""
import jax, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from dmphn_jax import checkpoints
from dmphn_jax.models import ModelConfig, init_params
assert jax.device_count() == 4
config = ModelConfig(**{CONFIG.to_dict()!r})
sharding = NamedSharding(Mesh(np.asarray(jax.devices()), ("data",)), PartitionSpec())
checkpoints.save({str(path)!r}, jax.device_put(init_params(config), sharding), config)
"""
    subprocess.run(
        [sys.executable, "-c", script],
        check=True,
        env={"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "PYTHONPATH": "."},
    )
    jax.tree.map(np.testing.assert_array_equal, checkpoints.load(path).params, params)


def test_never_replaces_what_it_was_not_told_to(saved, params, tmp_path):
    with pytest.raises(UserError, match="exists"):
        checkpoints.save(saved, params, CONFIG)
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "a.png").write_bytes(b"x")
    with pytest.raises(UserError, match="something other than a checkpoint"):
        checkpoints.save(photos, params, CONFIG, overwrite=True)
    assert (photos / "a.png").read_bytes() == b"x"


def test_overwriting_replaces_whole(copy, params):
    other = jax.tree.map(lambda x: x + 1, params)
    checkpoints.save(copy, other, CONFIG, overwrite=True)
    assert checkpoints.load(copy).digest == checkpoints.digest(other)
    assert [p.name for p in copy.parent.iterdir()] == ["copy"]


def test_refuses_parameters_of_another_model(params, tmp_path):
    with pytest.raises(UserError, match=r"stage_3/level_1/decoder/block_1.* is missing"):
        checkpoints.save(tmp_path / "a", params, dataclasses.replace(CONFIG, stages=3))
    with pytest.raises(UserError, match=r"has shape .* the model's has"):
        checkpoints.save(tmp_path / "a", params, dataclasses.replace(CONFIG, width=4))
    with pytest.raises(UserError, match=r"stage_2/.* is none of them"):
        checkpoints.save(tmp_path / "a", params, dataclasses.replace(CONFIG, stages=1))
    assert not list(tmp_path.iterdir())


def test_a_save_that_fails_or_is_killed_between_its_renames_leaves_the_old(
    copy, params, monkeypatch
):
    other = jax.tree.map(lambda x: x + 1, params)
    before = checkpoints.digest(params)

    def fails(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(items, "write", fails)
    with pytest.raises(UserError, match=r"cannot be written: No space left on device$"):
        checkpoints.save(copy, other, CONFIG, overwrite=True)
    assert checkpoints.load(copy).digest == before
    assert os.listdir(copy.parent) == ["copy"]
    # What a kill leaves between the renames: the new folder, complete, and the old one.
    scratch = copy.parent / ".copy.abcdefgh.replacing"
    scratch.mkdir()
    (scratch / "lock").touch()
    shutil.copytree(copy, scratch / "new")
    copy.rename(scratch / "old")
    assert checkpoints.load(copy).digest == before
    assert os.listdir(copy.parent) == ["copy"]


FULL_DISK = """
import resource, sys
from dmphn_jax import checkpoints
from dmphn_jax.errors import UserError, run_command
from dmphn_jax.models import ModelConfig, init_params
config = ModelConfig(**eval(sys.argv[2]))
params = init_params(config)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
sys.exit(run_command(lambda _: checkpoints.save(sys.argv[1], params, config), []))
"""


def test_a_file_size_limit_is_one_line_and_leaves_nothing(tmp_path):
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path / "c"), repr(CONFIG.to_dict())]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stderr == f"dmphn: error: {tmp_path / 'c'}: cannot be written: File too large\n"
    assert done.returncode == 2
    assert not list(tmp_path.iterdir())


def edit(path, *, seal=True, **changes):
    """Changes fields of a checkpoint's record; a sealed one has a digest that fits."""
    file = items.record_file(path, "model")
    item = json.loads(file.read_text()) | changes
    if seal:
        item["record_digest"] = model._record_digest(item)
    file.write_text(json.dumps(item))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: shutil.rmtree(p), "no such checkpoint"),
        (lambda p: shutil.rmtree(p / "model"), "not a checkpoint"),
        (lambda p: shutil.rmtree(p / "params"), "params/ is missing"),
        (lambda p: (p / "model" / "metadata").write_text('{"format": 1, "mod'), "damaged"),
        (lambda p: (p / "model" / "metadata").write_text("[]"), "damaged"),
        (lambda p: (p / "model" / "metadata").write_text("[" * 100_000), "nested too deep"),
        (lambda p: (p / "model" / "metadata").write_bytes(b"\xff" * 9), "damaged"),
        (lambda p: make_pipe(p / "model" / "metadata"), "not a plain file"),
        (lambda p: edit(p, format=99), "newer than this version reads"),
        (lambda p: edit(p, model={"family": "unet"}), "its model is unknown here"),
        (lambda p: edit(p, model=CONFIG.to_dict() | {"stages": 10**9}), "at most"),
        (lambda p: edit(p, model=CONFIG.to_dict() | {"hierarchy": "1-" * 50_000}), "at most"),
        (lambda p: edit(p, model=CONFIG.to_dict() | {"stages": 1}), "not this model's parameters"),
        (lambda p: edit(p, model=CONFIG.to_dict() | {"global_skip": True}, seal=False), "own dig"),
        (lambda p: edit(p, info={"step": 9}, seal=False), "does not match its own digest"),
        (lambda p: edit(p, digest="0" * 64), "do not match their digest"),
    ],
)
def test_what_is_wrong_is_one_line(copy, damage, message):
    damage(copy)
    with pytest.raises(UserError, match=message) as error:
        checkpoints.load(copy)
    assert str(copy) in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < len(str(copy)) + 250


def make_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def test_checkpoints_without_a_digest_of_the_record_load(copy, params):
    file = items.record_file(copy, "model")
    item = json.loads(file.read_text())
    del item["record_digest"]
    file.write_text(json.dumps(item))
    assert checkpoints.load(copy).digest == checkpoints.digest(params)


def test_remarks_of_every_kind_keep_their_digest(params, tmp_path):
    remarks = {"pair": (1, 2.5), "numbered": {3: None}, "name": "größe", "score": float("inf")}
    checkpoints.save(tmp_path / "c", params, CONFIG, remarks)
    assert checkpoints.load(tmp_path / "c").info["pair"] == [1, 2.5]


@pytest.mark.parametrize("damage", ["flip a bit", "truncate", "remove"])
def test_damaged_data_never_loads_as_other_parameters(copy, params, damage, capfd):
    files = [p for p in (copy / "params").rglob("*") if p.is_file()]
    refused = []
    for file in sorted(files, key=lambda p: p.stat().st_size)[-4:]:
        data = file.read_bytes()
        if damage == "flip a bit":
            middle = len(data) // 2
            file.write_bytes(data[:middle] + bytes([data[middle] ^ 4]) + data[middle + 1 :])
        elif damage == "truncate":
            file.write_bytes(data[: 2 * len(data) // 3])
        else:
            file.unlink()
        try:
            loaded = checkpoints.load(copy).params
        except UserError as error:
            refused.append(str(error))
        else:  # a file that only duplicates others
            jax.tree.map(np.testing.assert_array_equal, loaded, params)
        file.write_bytes(data)
    assert refused
    assert all("damaged" in line for line in refused)
    # Tensorstore's threads have nobody to report to once orbax has closed its event loop.
    assert capfd.readouterr().err == ""


def test_arrays_that_declare_other_sizes_take_no_memory(copy):
    kvstore = {"driver": "ocdbt", "base": {"driver": "file", "path": f"{copy / 'params'}/"}}
    name = "stage_1.level_1.encoder.conv_1.bias"
    store = tensorstore.KvStore.open(kvstore).result()
    header = json.loads(store.read(f"{name}/.zarray").result().value)
    header["shape"] = [1 << 40]
    store.write(f"{name}/.zarray", json.dumps(header).encode()).result()
    with pytest.raises(UserError, match=r"conv_1/bias has shape \(1099511627776,\), the model's"):
        checkpoints.load(copy)


def test_a_file_is_not_a_checkpoint(tmp_path):
    file = tmp_path / "encoder_lv1.pkl"
    file.write_bytes(b"\x80\x02")
    with pytest.raises(UserError, match="not a checkpoint"):
        checkpoints.load(file)
