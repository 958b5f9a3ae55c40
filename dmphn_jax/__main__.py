"""`python -m dmphn_jax COMMAND ...` does what `dmphn COMMAND ...` does."""

from dmphn_jax.cli import entry_point

entry_point()
