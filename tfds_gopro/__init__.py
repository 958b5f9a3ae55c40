"""TFDS builders for GoPro and VideoDeblurring, and the command that prepares them."""
