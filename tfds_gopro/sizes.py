"""The sizes of raw tiles, in pixels. No TFDS: the command's help reads them."""

TILE, STRIDE = (512, 512), 256  # (height, width), and how far apart
FRAME = (1 << 16, 1 << 16)  # a tile that holds any frame whole
