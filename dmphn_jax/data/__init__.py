"""Pairs of blurry and sharp images: where they come from and how they reach the device."""

from __future__ import annotations

__all__ = ["make_feed", "open_source"]


def __getattr__(name: str):
    if name in __all__:
        from dmphn_jax.data import sources

        return getattr(sources, name)
    raise AttributeError(f"module 'dmphn_jax.data' has no attribute {name!r}")
