"""Small released files and a cache of one's own."""

from __future__ import annotations

import pytest

from dmphn_jax import runtime
from dmphn_jax.checkpoints import weights
from dmphn_jax.checkpoints.download import Patience
from dmphn_jax.checkpoints.torch import authors
from tests.support.mirror import NAME, fake_release, serving

QUICK = Patience(seconds=0.2, least=256, tries=3, pause=0)


@pytest.fixture(scope="session")
def repository(tmp_path_factory):
    """A folder of small released files, and their table."""
    root = tmp_path_factory.mktemp("a repository")
    return root, fake_release(root)


@pytest.fixture
def mirror(repository):
    with serving(repository[0]) as mirror:
        yield mirror


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache's folder of checkpoints; no proxies, no mirror."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(weights.VARIABLE, raising=False)
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    runtime.cache_folder.cache_clear()
    yield tmp_path / "cache" / "dmphn_jax" / "checkpoints"
    runtime.cache_folder.cache_clear()


@pytest.fixture
def released(repository, cache, tmp_path, monkeypatch):
    """The table of small files in the authors' place; the working folder is an empty one."""
    monkeypatch.setattr(authors, "release", lambda: repository[1])
    monkeypatch.setattr(weights, "PATIENCE", QUICK)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return repository[1]


@pytest.fixture
def use(mirror, released, monkeypatch):
    """The mirror, which the environment names."""
    monkeypatch.setenv(weights.VARIABLE, mirror.address)
    return mirror


@pytest.fixture
def have(repository, released, monkeypatch):
    """A released model that is here."""
    path = weights.pull(NAME, str(repository[0]))
    monkeypatch.setenv(weights.VARIABLE, "http://127.0.0.1:1")  # nothing else comes from anywhere
    return path
