"""Experiments: one file each, `python -m dmphn_jax.main --config configs/FILE.py[:ARGUMENT]`."""
