"""The reader of PyTorch's files: what it takes, and that it never runs or trusts a file."""

import collections
import io
import os
import pickle
import struct
import sys
import tracemalloc
import types
import zipfile

import numpy as np
import pytest

from dmphn_jax.checkpoints.torch.pickle import read_state_dict, write_state_dict
from dmphn_jax.errors import UserError

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
SYSTEM = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"int": 4}}


class View:
    """A tensor as torch pickles it: offset, shape and strides over `values`, a 1-D array."""

    def __init__(self, values, shape=None, strides=None, offset=0, kind=None, window=None):
        self.values, self.offset, self.window = values, offset, window
        self.shape = values.shape if shape is None else shape
        self.strides = tuple(s // values.itemsize for s in values.strides)
        self.strides = self.strides if strides is None else strides
        self.kind = (
            kind
            or {"f4": "Float", "f8": "Double", "f2": "Half", "i8": "Long"}[values.dtype.str[1:]]
        )

    def __reduce__(self):
        storage = sys.modules["torch"].Storages(self)
        hooks = collections.OrderedDict()
        arguments = (storage, self.offset, self.shape, self.strides, False, hooks)
        return sys.modules["torch._utils"]._rebuild_tensor_v2, arguments


@pytest.fixture
def dump(monkeypatch):
    """Pickles as torch does, by Python's own pickler: dump(value, protocol) -> bytes, storages."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")

    def function(module, name):
        def f(*_):
            raise AssertionError("called")

        f.__module__, f.__name__, f.__qualname__ = module.__name__, name, name
        setattr(module, name, f)

    function(utils, "_rebuild_tensor_v2")
    function(utils, "_rebuild_parameter")
    for kind in ("Float", "Double", "Half", "Long", "BFloat16", "Bool"):
        name = f"{kind}Storage"
        setattr(torch, name, type(name, (), {"__module__": "torch", "__qualname__": name}))

    class Storages:
        def __init__(self, view):
            self.view = view

    torch.Storages = Storages
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "torch._utils", utils)

    def dump(value, protocol=2, legacy=True):
        storages = {}

        class Pickler(pickle.Pickler):
            def persistent_id(self, item):
                if not isinstance(item, Storages):
                    return None
                view = item.view
                key = next((k for k, v in storages.items() if v is view.values), None)
                key = str(len(storages)) if key is None else key
                storages[key] = view.values
                kind = getattr(torch, f"{view.kind}Storage")
                identifier = ("storage", kind, key, "cuda:0", view.values.size)
                return (*identifier, view.window) if legacy else identifier

        file = io.BytesIO()
        Pickler(file, protocol).dump(value)
        return file.getvalue(), storages

    return dump


def legacy_file(path, pickled, storages, protocol=2):
    dumps = [pickle.dumps(value, protocol) for value in (MAGIC, PROTOCOL, SYSTEM)]
    data = b"".join(dumps) + pickled + pickle.dumps(list(storages), protocol)
    for values in storages.values():
        data += struct.pack("<q", values.size) + values.tobytes()
    path.write_bytes(data)
    return path


def zip_file(path, pickled, storages, extra=()):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("weights/data.pkl", pickled)
        for key, values in storages.items():
            archive.writestr(f"weights/data/{key}", values.tobytes())
        archive.writestr("weights/version", "3\n")
        for name, data in extra:
            archive.writestr(f"weights/{name}", data)
    return path


def refused(path) -> str:
    with pytest.raises(UserError) as error:
        read_state_dict(path)
    text = str(error.value)
    assert str(path) in text
    assert "\n" not in text
    assert len(text) < len(str(path)) + 300
    return text


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


class Call:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def hostile(canary):
    """Name -> pickles that Python's own unpickler would act on."""
    command = f"touch {canary}"
    line = command.encode()
    push = b"X" + struct.pack("<I", len(line)) + line
    yield "global", b"\x80\x02cos\nsystem\n(" + push + b"tR."
    yield "stack_global", pickle.dumps(Call(os.system, command), 4)
    yield "protocol_0", pickle.dumps(Call(os.system, command), 0)
    yield "eval", pickle.dumps(Call(eval, f"open({str(canary)!r}, 'w')"), 2)
    yield "nested", pickle.dumps({"layer1.weight": [({"a": Call(os.system, command)},)]}, 2)
    yield "key", pickle.dumps({("a", Call(os.system, command)): 1}, 2)
    yield "inst", b"(" + push + b"ios\nsystem\n."
    yield "obj", b"(cos\nsystem\n" + push + b"o."
    yield "newobj", b"\x80\x02cos\nsystem\n(" + push + b"t\x81."
    yield "dotted", b"\x80\x04\x8c\x05torch\x8c\x10_utils.os.system\x93(" + push + b"tR."
    yield "storage_call", b"\x80\x02ctorch\nFloatStorage\n(" + push + b"tR."
    yield "text_call", b"\x80\x02" + push + b")R."
    yield "build", b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}b."
    yield "extension", b"\x80\x02\x82\x01."
    yield "bytearray", pickle.dumps(bytearray(b"x"), 5)
    yield "module", b"\x80\x02(X\x06\x00\x00\x00modulecos\nsystem\ntQ."
    yield "array", pickle.dumps({"layer1.weight": np.ones(3)}, 2)


def test_code_is_refused_and_never_run(tmp_path, dump):
    canary = tmp_path / "ran"
    for name, pickled in hostile(canary):
        bare = tmp_path / f"{name}_bare.pkl"
        bare.write_bytes(pickled)
        refused(bare)
        text = refused(legacy_file(tmp_path / f"{name}.pkl", pickled, {}))
        assert text == refused(zip_file(tmp_path / f"{name}.pkl", pickled, {}))
        assert not canary.exists(), name
        if name in ("global", "nested", "inst", "newobj", "dotted", "extension", "array"):
            assert "refused" in text, name
    assert "'posix.system'" in refused(tmp_path / "nested.pkl")
    # beside good tensors, and in what hangs on the state dict, it is refused too
    good = collections.OrderedDict(weight=View(np.ones(3, np.float32)))
    good._metadata = Call(os.system, f"touch {canary}")
    refused(legacy_file(tmp_path / "beside.pkl", *dump(good)))
    good["extra"] = Call(print, "hello")
    assert "refused" in refused(legacy_file(tmp_path / "beside.pkl", *dump(good)))
    assert not canary.exists()


def small_files(tmp_path, dump):
    value = collections.OrderedDict(
        weight=View(np.arange(6, dtype=np.float32), (2, 3), (3, 1)),
        bias=View(np.arange(2, dtype=np.float16)),
    )
    yield legacy_file(tmp_path / "legacy.pkl", *dump(value))
    yield zip_file(tmp_path / "zip.pkl", *dump(value, legacy=False))
    write_state_dict(tmp_path / "ours.pkl", {"weight": np.ones((2, 3), np.float32)})
    yield tmp_path / "ours.pkl"


def test_truncated_anywhere_is_one_line(tmp_path, dump):
    for path in small_files(tmp_path, dump):
        data = path.read_bytes()
        read_state_dict(path)
        for length in range(0, len(data), 1 if path.name == "legacy.pkl" else 4):
            path.write_bytes(data[:length])
            refused(path)
        path.write_bytes(data + b"\0")
        if path.name == "legacy.pkl":
            refused(path)


def test_damaged_anywhere_never_gives_anything_but_tensors_or_one_line(tmp_path, dump):
    for path in small_files(tmp_path, dump):
        data = path.read_bytes()
        for position in range(0, len(data), 1 if path.name == "legacy.pkl" else 3):
            byte = (0, 0xFF, data[position] ^ 0x01, data[position] ^ 0x80)[position % 4]
            path.write_bytes(data[:position] + bytes([byte]) + data[position + 1 :])
            try:
                found = read_state_dict(path)
            except UserError:
                continue
            assert all(isinstance(value, np.ndarray) for value in found.values())


def test_declared_sizes_take_no_memory(tmp_path, dump):
    value = np.ones(4, np.float32)
    hostile_pickles = [
        b"\x80\x02X\xf0\xff\xff\x7f" + b"a" * 9,  # a text of 2 GB
        b"\x80\x04\x8d" + struct.pack("<Q", 1 << 62) + b"a",  # of 4 EB
        b"\x80\x02Nr\xff\xff\xff\xff.",  # memo number 2^32
        b"\x80\x02\x8b\xff\xff\xff\x7f.",  # a number of 2 GB
        b"\x80\x04\x95" + struct.pack("<Q", 1 << 62) + b"N.",  # a frame of 4 EB
        b"\x80\x02" + b"(" * 20_000 + b"t" * 20_000 + b".",  # nested 20,000 deep
        b"\x80\x02}" + b"(" * 10_000 + b"t" * 10_000 + b"Ns.",  # as a key
    ]
    paths = []
    for number, pickled in enumerate(hostile_pickles):
        paths.append(legacy_file(tmp_path / f"{number}.pkl", pickled, {}))
        paths.append(zip_file(tmp_path / f"{number}z.pkl", pickled, {}))
    pickled, storages = dump({"w": View(value)})
    big = pickled.replace(b"cuda:0q\x06K\x04", b"cuda:0q\x06J\x00\x00\x00\x40")
    assert big != pickled
    paths.append(legacy_file(tmp_path / "numel.pkl", big, storages))
    paths.append(zip_file(tmp_path / "numel_zip.pkl", big, storages))
    lying = legacy_file(tmp_path / "count.pkl", big, storages).read_bytes()
    at = lying.rindex(struct.pack("<q", 4))
    paths.append(tmp_path / "count.pkl")
    paths[-1].write_bytes(lying[:at] + struct.pack("<q", 1 << 30) + lying[at + 8 :])
    for shape, strides, offset in (
        ((1 << 40,), (1,), 0),
        ((1 << 61, 1 << 61), (0, 0), 0),
        ((4,), (1,), 1),
        ((2, 2), (1 << 61, 1), 0),
        ((), (), 1 << 61),
    ):
        view = View(value, shape, strides, offset)
        paths.append(legacy_file(tmp_path / f"shape{len(paths)}.pkl", *dump({"w": view})))
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", b"\0" * (50 << 20))
    paths.append(tmp_path / "bomb.pkl")
    paths[-1].write_bytes(bomb.getvalue())
    tracemalloc.start()
    try:
        for path in paths:
            refused(path)
        # A value repeated by a stride of zero is a view: of any shape, it costs nothing.
        view = View(value, (1 << 20, 1 << 20), (0, 0))
        found = read_state_dict(legacy_file(tmp_path / "repeat.pkl", *dump({"w": view})))
        assert found["w"].shape == (1 << 20, 1 << 20)
        assert tracemalloc.get_traced_memory()[1] < 32 << 20
    finally:
        tracemalloc.stop()


def test_files_that_are_something_else(tmp_path):
    png = tmp_path / "a.pkl"
    png.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    assert "no readable file of PyTorch weights" in refused(png)
    png.write_bytes(b"")
    assert "empty" in refused(png)
    png.write_text("not weights\n")
    refused(png)
    with zipfile.ZipFile(png, "w") as archive:
        archive.writestr("readme.txt", "hello")
    assert "none that torch.save writes" in refused(png)
    assert "no such file" in refused(tmp_path / "b.pkl")
    assert "directory" in refused(tmp_path)
    os.mkfifo(tmp_path / "pipe.pkl")
    assert "not a plain file" in refused(tmp_path / "pipe.pkl")
    for value in ({}, [1], {"a": 1}, 3):
        assert "PyTorch" in refused(legacy_file(png, pickle.dumps(value, 2), {}))


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
