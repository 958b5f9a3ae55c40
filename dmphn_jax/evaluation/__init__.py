"""Scores of checkpoints on pairs, and the reports and figures made of them."""
