"""Reads and writes PyTorch's weight files without PyTorch.

`read_state_dict` takes both of torch's formats: the old one (before 1.6), a row of pickles with
the values behind them, and the zip archive of today. Nothing in a file is executed: see
`restricted_pickle`. Sizes a file declares are checked against its real length before anything of
that size is made, so that a damaged or hostile file costs one line and no memory.
"""

from __future__ import annotations

import io
import mmap
import os
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dmphn_jax.checkpoints.torch import restricted_pickle as rp
from dmphn_jax.errors import UserError, one_line

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_ALIGNMENT = 64
# Wrappers training scripts put around a state dict.
_WRAPPERS = ("state_dict", "params", "model", "model_state_dict")
_STORAGE_OF = {
    dtype: name for name, dtype in rp.STORAGE_DTYPES.items() if dtype not in ("bfloat16",)
}


def read_state_dict(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Returns the tensors of a file that `torch.save(module.state_dict(), path)` wrote.

    Args:
      path: a file of either of torch's formats, saved from any device. A dict that holds the
        state dict under "state_dict", "params", "model" or "model_state_dict" is taken too.

    Returns:
      name -> read-only array of the tensor's shape and dtype (bfloat16 becomes float32, which
      holds it exactly), in the file's order. An array is a view of its storage and may be
      strided, or shared with others; copy it to own it, after looking at its shape.

    Raises:
      UserError: the file is missing, unreadable, of no such format, damaged, or holds anything
        but tensors.
    """
    path = Path(path)
    try:
        if not path.is_file() and path.exists() and not path.is_dir():
            raise UserError(f"{path}: not a plain file")  # opening a pipe would wait for ever
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                raise UserError(f"{path}: the file is empty")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                if data[:4] == b"PK\x03\x04":
                    found, storages = _read_zip(file, len(data))
                else:
                    found, storages = _read_legacy(data)
        return _arrays(found, storages)
    except UserError:
        raise
    except rp.RefusedError as error:
        raise UserError(
            f"{path}: refused, {error}; save the weights as torch.save(model.state_dict(), ...)"
        ) from None
    except (IsADirectoryError, FileNotFoundError, PermissionError) as error:
        raise UserError(f"{path}: {(error.strerror or one_line(error)).lower()}") from None
    except (OSError, ValueError, MemoryError) as error:
        raise UserError(f"{path}: no readable file of PyTorch weights: {one_line(error)}") from None


def _tensors(found: Any) -> dict[str, rp.Tensor]:
    """Returns the state dict in a file's value: the value itself or what a wrapper holds."""
    if isinstance(found, dict) and not any(isinstance(v, rp.Tensor) for v in found.values()):
        inner = [found[key] for key in _WRAPPERS if isinstance(found.get(key), dict)]
        if inner:
            found = inner[0]
    if not isinstance(found, dict) or not found:
        raise ValueError("it holds no state dict")
    for name, value in found.items():
        if not isinstance(name, str) or not isinstance(value, rp.Tensor):
            raise ValueError(f"its entry {str(name)[:60]!r} is no tensor")
    return found


def _arrays(tensors: dict[str, rp.Tensor], storages: dict[str, np.ndarray]) -> dict:
    arrays = {}
    for name, tensor in tensors.items():
        storage = tensor.storage
        values = storages[storage.key][storage.start : storage.start + storage.count]
        arrays[name] = _strided(values, tensor, name)
    return arrays


def _strided(values: np.ndarray, tensor: rp.Tensor, name: str) -> np.ndarray:
    """Returns the tensor as a view; no memory is made, however large the shape it declares."""
    if 0 in tensor.shape:
        view = np.zeros(tensor.shape, values.dtype)
    else:
        reach = sum((n - 1) * stride for n, stride in zip(tensor.shape, tensor.strides))
        if tensor.offset + reach >= values.size:
            raise ValueError(f"its tensor {name[:60]!r} reaches beyond its storage")
        view = np.lib.stride_tricks.as_strided(
            values[tensor.offset :],
            tensor.shape,
            [stride * values.itemsize for stride in tensor.strides],
        )
    view.flags.writeable = False
    return view


def _values(data: bytes, dtype: str, order: str) -> np.ndarray:
    """Returns stored bytes as values in this machine's byte order."""
    if dtype == "bool":
        return np.frombuffer(data, np.uint8) != 0
    if dtype == "bfloat16":  # the upper half of a float32
        halves = np.frombuffer(data, order + "u2").astype(np.uint32)
        return (halves << 16).view(np.float32)
    stored = np.dtype(dtype).newbyteorder(order)
    return np.frombuffer(data, stored).astype(np.dtype(dtype), copy=False)


def _item_size(dtype: str) -> int:
    return 2 if dtype == "bfloat16" else np.dtype(dtype).itemsize


def _read_legacy(data: mmap.mmap) -> tuple[dict[str, rp.Tensor], dict[str, np.ndarray]]:
    """Reads magic number, protocol, system, value, storage keys, and the storages behind them."""
    if data[:1] != b"\x80":  # every pickle of protocol 2 and later
        raise ValueError("it does not start as one")
    magic = rp.load(data)  # of a plain pickle of objects this says what is in it
    if type(magic) is not int or magic != _MAGIC:
        raise ValueError("it does not start as one")
    if rp.load(data) != _PROTOCOL:
        raise ValueError("unknown version of the format")
    rp.load(data)  # the writer's byte order and type sizes; storages are little-endian always
    described: dict[str, rp.Storage] = {}
    tensors = _tensors(rp.load(data, storages=described))
    used = {tensor.storage.key for tensor in tensors.values()}
    keys = rp.load(data)
    if type(keys) is not list or any(type(key) is not str for key in keys):
        raise ValueError("damaged list of storages")
    if len(set(keys)) != len(keys) or set(keys) != set(described):
        raise ValueError("its storages are not those of its tensors")
    storages: dict[str, np.ndarray] = {}
    for key in keys:
        header = data.read(8)
        if len(header) < 8:
            raise ValueError("the file is cut short")
        if struct.unpack("<q", header) != (described[key].whole,):
            raise ValueError("a storage's length is not the one declared")
        length = described[key].whole * _item_size(described[key].dtype)
        if length > len(data) - data.tell():
            raise ValueError("the file is cut short")
        if key in used:
            storages[key] = _values(data.read(length), described[key].dtype, "<")
        else:
            data.seek(length, os.SEEK_CUR)
    if data.tell() != len(data):
        raise ValueError("there are bytes behind its end")
    return tensors, storages


def _read_zip(file: Any, length: int) -> tuple[dict[str, rp.Tensor], dict[str, np.ndarray]]:
    """Reads ARCHIVE/data.pkl and the storages ARCHIVE/data/KEY of a zip archive."""
    try:
        with zipfile.ZipFile(file) as archive:
            entries = {info.filename: info for info in archive.infolist()}
            pickles = [name for name in entries if name.endswith("/data.pkl")]
            if len(pickles) != 1:
                raise ValueError("a zip archive, but none that torch.save writes")
            root = pickles[0].removesuffix("data.pkl")
            budget = length  # entries that overlap cannot add up to more than the file

            def read(name: str, limit: int) -> bytes:
                nonlocal budget
                info = entries.get(root + name)
                if info is None:
                    raise ValueError(f"its part {name!r} is missing")
                if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
                    raise ValueError("it was compressed or encrypted after torch.save")
                if info.file_size != info.compress_size or info.file_size > min(limit, budget):
                    raise ValueError(f"its part {name!r} has an impossible size")
                budget -= info.file_size
                return archive.read(info)

            order = "<"
            if root + "byteorder" in entries:
                order = ">" if read("byteorder", 16).strip() == b"big" else "<"
            tensors = _tensors(rp.load(io.BytesIO(read("data.pkl", rp.MAX_BYTES))))
            used = {tensor.storage.key: tensor.storage for tensor in tensors.values()}
            storages = {}
            for key, storage in used.items():
                data = read(f"data/{key}", length)
                if len(data) != storage.whole * _item_size(storage.dtype):
                    raise ValueError("a storage's length is not the one declared")
                storages[key] = _values(data, storage.dtype, order)
            return tensors, storages
    except (
        zipfile.BadZipFile,
        UnicodeDecodeError,
        OSError,  # a position before the file's start
        NotImplementedError,
        RuntimeError,
        EOFError,
        KeyError,
        struct.error,
        OverflowError,
        zlib.error,
    ) as error:
        raise ValueError(f"damaged or cut-short zip archive ({one_line(error)})") from None


def write_state_dict(path: str | os.PathLike, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes arrays as a file that `torch.load(path, weights_only=True)` reads.

    The zip format (torch 1.6 and later). The same arrays give the same bytes. The caller sees to
    temporary names.

    Args:
      path: the file; replaced if it is there.
      tensors: name -> array of a dtype torch has; float32 stays bit-exact.

    Raises:
      TypeError: an array's dtype is none of torch's.
    """
    storages = []
    pickle = [b"\x80\x02", _name(rp.ORDERED_DICT), b")R("]
    for number, (name, tensor) in enumerate(tensors.items()):
        array = np.asarray(tensor)
        if array.dtype.name not in _STORAGE_OF:
            raise TypeError(f"{name}: torch has no dtype {array.dtype}")
        array = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).reshape(array.shape)
        storages.append(array)
        strides = [stride // array.itemsize for stride in array.strides]
        identifier = [_text("storage"), _name(f"torch.{_STORAGE_OF[array.dtype.name]}")]
        identifier += [_text(str(number)), _text("cpu"), _number(array.size)]
        pickle += [_text(name), _name(rp.REBUILD_TENSOR), b"("]
        pickle += [_row(identifier), b"Q", _number(0)]
        pickle += [_row(map(_number, array.shape)), _row(map(_number, strides))]
        pickle += [b"\x89", _name(rp.ORDERED_DICT), b")R", b"tR"]  # no gradient, no hooks
    pickle.append(b"u.")
    with open(path, "wb") as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        _add(file, archive, "archive/data.pkl", b"".join(pickle))
        _add(file, archive, "archive/byteorder", b"little")
        for number, array in enumerate(storages):
            _add(file, archive, f"archive/data/{number}", array.tobytes())
        _add(file, archive, "archive/version", b"3\n")


def _name(text: str) -> bytes:
    module, _, attribute = text.rpartition(".")
    return f"c{module}\n{attribute}\n".encode("ascii")


def _text(text: str) -> bytes:
    data = text.encode("utf-8")
    return b"X" + struct.pack("<I", len(data)) + data


def _number(value: int) -> bytes:
    if value < 1 << 31:
        return b"J" + struct.pack("<i", value)
    return b"\x8a\x08" + struct.pack("<q", value)


def _row(items: Any) -> bytes:
    return b"(" + b"".join(items) + b"t"


def _add(file: Any, archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    """Adds an entry whose bytes start at a multiple of 64, as torch's memory mapping likes them."""
    info = zipfile.ZipInfo(name)  # of 1980: no clock in the bytes
    padding = -(file.tell() + 30 + len(name) + 4) % _ALIGNMENT
    info.extra = b"FB" + struct.pack("<H", padding) + b"Z" * padding
    archive.writestr(info, data)
