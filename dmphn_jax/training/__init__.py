"""Training: the loop, its compiled step, and all that a run keeps."""
