"""Fixtures every test may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def reference() -> Path:
    """The folder of reference data; skips where there is none."""
    folder = Path(os.environ.get("DMPHN_REFERENCE") or ROOT.parent / "shared" / "reference")
    if not (folder / "checkpoints").is_dir():
        pytest.skip("no reference data: set DMPHN_REFERENCE to its folder")
    return folder
