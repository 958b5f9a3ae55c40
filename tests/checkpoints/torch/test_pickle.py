"""The reader and the writer of PyTorch's files: everything that torch writes."""

import collections
import struct
import sys
import zipfile

import numpy as np
import pytest

from dmphn_jax.checkpoints.torch.pickle import read_state_dict, write_state_dict
from tests.checkpoints.torch.files import View, legacy_file, zip_file


def state_dict():
    """Name -> (View, the array torch would show), and tensors that share, skip and repeat."""
    a = np.arange(24, dtype=np.float32) / 7
    b = np.arange(6, dtype=np.float64)
    h = np.arange(4, dtype=np.float16)
    return {
        "whole": (View(a), a),
        "matrix": (View(a, (4, 6), (6, 1)), a.reshape(4, 6)),
        "transposed": (View(a, (6, 4), (1, 6)), a.reshape(4, 6).T),
        "part": (View(a, (2, 3), (6, 2), offset=7), a.reshape(4, 6)[1:3, 1::2]),
        "repeated": (View(a, (5, 3), (0, 1)), np.broadcast_to(a[:3], (5, 3))),
        "scalar": (View(a, (), (), offset=3), a[3]),
        "none": (View(a, (0, 9), (9, 1)), np.zeros((0, 9), np.float32)),
        "double": (View(b), b),
        "half": (View(h), h),
        "count": (View(np.array([2**40])), np.array([2**40])),
    }


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("form", ["legacy", "zip"])
@pytest.mark.parametrize("wrapped", [False, True])
def test_reads_strides_offsets_and_shared_storages(tmp_path, dump, protocol, form, wrapped):
    wanted = state_dict()
    value = collections.OrderedDict((name, view) for name, (view, _) in wanted.items())
    value._metadata = {"": {"version": 1}}  # torch hangs it on a state dict: a BUILD
    if wrapped:
        other = View(np.ones(3, np.float32))
        value = {"epoch": 3, "rate": 1e-4, "optimizer": [other, None], "state_dict": value}
    pickled, storages = dump(value, protocol, form == "legacy")
    if form == "legacy":
        path = legacy_file(tmp_path / "w.pkl", pickled, storages, protocol)
    else:
        path = zip_file(tmp_path / "w.pkl", pickled, storages)
    found = read_state_dict(path)
    assert list(found) == list(wanted)
    for name, (_, array) in wanted.items():
        assert found[name].dtype == array.dtype
        assert found[name].shape == array.shape
        np.testing.assert_array_equal(found[name], array)


def test_reads_parameters_views_of_storages_bfloat16_and_bool(tmp_path, dump):
    values = np.arange(10, dtype=np.float32)
    halves = (np.array([1.5, -2.0, 3.140625], np.float32).view(np.uint32) >> 16).astype("<u2")

    class Parameter:
        def __reduce__(self):
            build = sys.modules["torch._utils"]._rebuild_parameter
            return build, (View(values), True, collections.OrderedDict())

    value = {
        "parameter": Parameter(),
        "brain": View(halves, kind="BFloat16"),
        "flag": View(np.array([0, 1, 2], np.uint8), kind="Bool"),
    }
    found = read_state_dict(zip_file(tmp_path / "z.pkl", *dump(value, legacy=False)))
    np.testing.assert_array_equal(found["parameter"], values)
    np.testing.assert_array_equal(found["brain"], np.float32([1.5, -2.0, 3.140625]))
    np.testing.assert_array_equal(found["flag"], [False, True, True])
    window = {"w": View(values, (2, 2), (2, 1), offset=1, window=("0v", 4, 6))}
    found = read_state_dict(legacy_file(tmp_path / "l.pkl", *dump(window)))
    np.testing.assert_array_equal(found["w"], [[5, 6], [7, 8]])


def test_reads_python_2_text_and_big_endian_archives(tmp_path, dump):
    values = np.arange(3, dtype=np.float32)
    pickled, storages = dump({"weight": View(values)})
    old = pickled.replace(b"X\x06\x00\x00\x00weight", b"U\x06weight")
    assert old != pickled
    path = legacy_file(tmp_path / "py2.pkl", old, storages)
    np.testing.assert_array_equal(read_state_dict(path)["weight"], values)
    pickled, storages = dump({"weight": View(values)}, legacy=False)
    storages = {key: value.astype(">f4") for key, value in storages.items()}
    path = zip_file(tmp_path / "big.pkl", pickled, storages, [("byteorder", "big")])
    np.testing.assert_array_equal(read_state_dict(path)["weight"], values)


ARRAYS = {
    "weight": np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float32).T,
    "scalar": np.float32(2.5),
    "empty": np.zeros((0, 3), np.float32),
    "half": np.arange(3, dtype=np.float16),
    "double": np.arange(3, dtype=np.float64),
    "count": np.array([1, -(2**40)]),
    "flag": np.array([True, False]),
    "größe": np.ones(1, np.uint8),
    "nan": np.array([np.nan, -0.0, np.inf], np.float32),
}


def test_written_files_read_back_and_are_reproducible(tmp_path):
    path = tmp_path / "w.pkl"
    write_state_dict(path, ARRAYS)
    found = read_state_dict(path)
    assert list(found) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert found[name].dtype == array.dtype
        assert found[name].shape == array.shape
        assert found[name].tobytes() == array.tobytes()
    first = path.read_bytes()
    write_state_dict(path, ARRAYS)
    assert path.read_bytes() == first
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        for info in archive.infolist():
            header = first[info.header_offset :]
            start = info.header_offset + 30 + sum(struct.unpack("<HH", header[26:30]))
            assert start % 64 == 0
    with pytest.raises(TypeError, match="datetime64"):
        write_state_dict(path, {"when": np.array(["2019-06-16"], "datetime64[D]")})


def test_torch_reads_what_is_written_and_is_read_itself(tmp_path):
    torch = pytest.importorskip("torch")
    path = tmp_path / "w.pkl"
    write_state_dict(path, ARRAYS)
    found = torch.load(path, weights_only=True)
    for name, array in ARRAYS.items():
        assert found[name].numpy().tobytes() == array.tobytes()
        assert tuple(found[name].shape) == array.shape
    base = torch.randn(6, 8)
    tensors = {"a": base, "t": base.t(), "s": base[1:4, ::3], "h": base.half()}
    tensors["p"] = torch.nn.Parameter(base)
    for new in (True, False):
        for protocol in (2, 4):
            torch.save(tensors, path, _use_new_zipfile_serialization=new, pickle_protocol=protocol)
            found = read_state_dict(path)
            for name, tensor in tensors.items():
                np.testing.assert_array_equal(found[name], tensor.detach().numpy())
