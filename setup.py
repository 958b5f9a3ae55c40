"""Installs `dmphn_jax`; everything is declared in pyproject.toml."""

from setuptools import setup

setup()
