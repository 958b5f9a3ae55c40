"""A pickler that writes tensors as torch does."""

import io
import pickle
import sys
import types

import pytest


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
