"""Fixtures every test may use."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# What some tests read in compiled programs is a CPU's, and two workers do not share a GPU's memory.
# JAX_PLATFORMS=cuda runs the others there.
os.environ.setdefault("JAX_PLATFORMS", "cpu")


@pytest.fixture(scope="session")
def reference() -> Path:
    """The folder of reference data; skips where there is none."""
    folder = Path(os.environ.get("DMPHN_REFERENCE") or ROOT.parent / "shared" / "reference")
    if not (folder / "checkpoints").is_dir():
        pytest.skip("no reference data: set DMPHN_REFERENCE to its folder")
    return folder


@pytest.fixture(scope="session", autouse=True)
def signals() -> None:
    """Has tests, and what they start, hear what nohup and a shell's background jobs ignore."""
    for number, handler in (
        (signal.SIGHUP, signal.SIG_DFL),
        (signal.SIGINT, signal.default_int_handler),
    ):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, handler)


@pytest.fixture(scope="session", autouse=True)
def kernels() -> None:
    """Compiles the CPU kernels before the first test, whose output is not to tell of it."""
    from dmphn_jax import cpu_kernels

    cpu_kernels.load()


@pytest.fixture(scope="session")
def compiled_once(tmp_path_factory: pytest.TempPathFactory):
    """Keeps compiled programs for the session: runs with the same step compile it once."""
    import jax

    folder = str(tmp_path_factory.mktemp("compiled"))
    before = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = folder  # for processes that tests start
    jax.config.update("jax_compilation_cache_dir", folder)
    yield folder
    jax.config.update("jax_compilation_cache_dir", before)
    if before is None:
        del os.environ["JAX_COMPILATION_CACHE_DIR"]
    else:
        os.environ["JAX_COMPILATION_CACHE_DIR"] = before


@pytest.fixture(scope="session")
def store_emulator():
    """The address of an emulator of Cloud Storage; skips where none is installed."""
    from tests.support.object_store import emulator

    before = os.environ.get("STORAGE_EMULATOR_HOST")
    with emulator() as url:
        os.environ.pop("STORAGE_EMULATOR_HOST", None)
        yield url
    if before is not None:
        os.environ["STORAGE_EMULATOR_HOST"] = before


@pytest.fixture
def bucket(store_emulator, tmp_path, monkeypatch):
    """A bucket of its own, reached through a proxy that fails on demand; nothing is waited for.

    Attributes `address` (of the bucket), `proxy`.
    """
    import secrets
    from types import SimpleNamespace

    from google.cloud import storage as client

    from dmphn_jax.storage import Address, store
    from tests.support.object_store import Proxy

    proxy = Proxy(store_emulator)
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", proxy.url)
    monkeypatch.setenv("DMPHN_STAGING", str(tmp_path / "staging"))
    monkeypatch.setattr(store, "PAUSE", 0.01)
    monkeypatch.setattr(store, "SECONDS", 1.0)
    address = Address(f"bkt-{secrets.token_hex(6)}")
    client.Client(project="none").create_bucket(address.bucket)
    yield SimpleNamespace(address=address, proxy=proxy)
    proxy.close()
