"""The authors' PyTorch files: their names, and a reader and a writer that need no PyTorch."""
