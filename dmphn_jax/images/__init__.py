"""Image files in and out: PNG, JPEG, WebP, BMP, TIFF, and still GIF to read.

    image = read_image("blurry.png")                          # pixels: RGB, uint8 or uint16
    write_image("sharp.png", image.with_pixels(deblurrer(image.pixels)))

What a file held beside its colours comes along: transparency, grayness, 16 bits, ICC profile,
EXIF, XMP, resolution, text. What the output's format cannot hold is told in the returned notes.
"""

from dmphn_jax.images.core import (
    DEFAULT_MAX_PIXELS,
    EXTENSIONS,
    WRITABLE,
    Image,
    ImageError,
    Metadata,
    format_of,
)
from dmphn_jax.images.reading import Header, read_header, read_image, read_rgb, read_size
from dmphn_jax.images.writing import DEFAULT_QUALITY, encode_image, write_image

__all__ = [
    "DEFAULT_MAX_PIXELS",
    "DEFAULT_QUALITY",
    "EXTENSIONS",
    "WRITABLE",
    "Header",
    "Image",
    "ImageError",
    "Metadata",
    "encode_image",
    "format_of",
    "read_header",
    "read_image",
    "read_rgb",
    "read_size",
    "write_image",
]
