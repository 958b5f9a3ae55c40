"""Pairs of blurry and sharp images: where they come from and how they reach the device.

`options` (names and options) needs neither jax nor NumPy; the rest is imported when it is used.
"""

from __future__ import annotations

from typing import Any

from dmphn_jax.data.options import FEEDS, RECIPES, SOURCES, SourceOptions

__all__ = [
    "FEEDS",
    "RECIPES",
    "SOURCES",
    "SourceOptions",
    "choose_feed",
    "make_feed",
    "open_source",
]


def __getattr__(name: str) -> Any:
    if name in ("choose_feed", "make_feed", "open_source"):
        from dmphn_jax.data import sources

        return getattr(sources, name)
    raise AttributeError(f"module 'dmphn_jax.data' has no attribute {name!r}")
