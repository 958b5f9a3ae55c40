"""Files as PyTorch writes them, made without PyTorch, and what every refusal must look like."""

import collections
import pickle
import struct
import sys
import zipfile

import pytest

from dmphn_jax.checkpoints.torch.pickle import read_state_dict
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
