"""What `dmphn benchmark` measures with: timing, ceilings, counts, the PyTorch twin, tables."""
