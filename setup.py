"""Installs `dmphn_jax` and `tfds_gopro`; what is not said here is declared in pyproject.toml.

A wheel carries the experiments of `configs/` inside the package: a top-level `configs` would stand
in the way of a user's own.
"""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["dmphn_jax*", "tfds_gopro*"]), "dmphn_jax.configs"],
    package_dir={"dmphn_jax.configs": "configs"},
)
