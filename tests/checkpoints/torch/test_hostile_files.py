"""Hostile and damaged weight files: nothing runs, nothing costs, and the refusal is one line."""

import collections
import io
import os
import pickle
import struct
import tracemalloc
import zipfile

import numpy as np

from dmphn_jax.checkpoints.torch import restricted_pickle
from dmphn_jax.checkpoints.torch.pickle import read_state_dict, write_state_dict
from dmphn_jax.errors import UserError
from tests.checkpoints.torch.files import View, legacy_file, refused, zip_file


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


def test_numbers_that_collide_cost_no_more_than_others(tmp_path, dump):
    numbers = [((1 << 61) - 1) * number for number in range(1, 9)]
    assert len({hash(number) for number in numbers}) == 1
    # Keys: what is hashed is their text.
    machine = restricted_pickle._Machine({})
    machine.stack = [{}, restricted_pickle._MARK]
    for number in numbers:
        machine.stack += [number, None]
    machine.step("SETITEMS", None)
    assert list(machine.stack[0]) == [str(number) for number in numbers]
    # Memo: only numbers that a pickler gives out.
    put = b"\x80\x02N" + b"".join(b"p%d\n" % number for number in numbers) + b"."
    assert "memo number" in refused(legacy_file(tmp_path / "put.pkl", put, {}))
    wide = b"\x80\x02}\x8a\x10" + b"\x7f" * 16 + b"Ns."
    assert "keys that are no names" in refused(legacy_file(tmp_path / "wide.pkl", wide, {}))
    # An optimiser's numbered entries beside a state dict are no hindrance.
    weights = collections.OrderedDict(weight=View(np.ones(2, np.float32)))
    value = {"optimizer": {"state": {0: {"step": 3}, 1: {}}}, "state_dict": weights}
    assert list(read_state_dict(legacy_file(tmp_path / "both.pkl", *dump(value)))) == ["weight"]


def test_instructions_are_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(restricted_pickle, "MAX_INSTRUCTIONS", 1000)
    long = b"\x80\x02" + b"N" * 2000 + b"."
    assert "more than 1,000 instructions" in refused(legacy_file(tmp_path / "a.pkl", long, {}))
