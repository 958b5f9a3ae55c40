"""What a server takes on, and no more."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Bounds on what strangers may ask for.

    Attributes:
      upload_bytes: of a picture's file, counted as it comes in.
      pixels: of a picture, or of a film's frame, by the size it declares.
      queue: pictures under way at once, those still coming in or going out among them.
      seconds: from a picture's last byte to its result, the time in the queue included.
      upload_seconds: that a body may take to come in.
      films: held at once, waiting, running or done; 0: none are taken. Failed ones are not held.
      film_bytes: of a film's file.
      film_frames: of a film.
      film_seconds: that a film may be computed.
      keep_seconds: that a film's result is kept.
    """

    upload_bytes: int = 128_000_000
    pixels: int = 50_000_000
    queue: int = 64
    seconds: float = 600.0
    upload_seconds: float = 300.0
    films: int = 4
    film_bytes: int = 512_000_000
    film_frames: int = 3600
    film_seconds: float = 14_400.0
    keep_seconds: float = 1800.0
