"""A clip of 10 s in 720p through `dmphn deblur`: what of it is kept, and the time that takes.

    python tools/film_clip.py [--seconds 10] [--size 1280x720] [CHECKPOINT]

The clip is made here: 30 frames/s in H.264, a tone in AAC. Its frames and their times, and every
packet of its sound, are compared with the result's. Without a checkpoint a network of one level and
4 channels computes it.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from fractions import Fraction
from pathlib import Path

from peak_memory import deblur, make_film, tiny

_RATE = 30


def main() -> int:
    """Prints what was compared; returns 1 if anything differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", nargs="?", help="folder, or a released model's name (a tiny)")
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--size", default="1280x720", help="width x height")
    args = parser.parse_args()
    width, height = map(int, args.size.split("x"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source, output = folder / "in.mp4", folder / "out.mp4"
        make_film(source, _RATE * args.seconds, height, width, _RATE)
        checkpoint = args.checkpoint or tiny(folder / "tiny")
        used = deblur(checkpoint, source, output, "--quiet")
        (times, sound), (times_out, sound_out) = _kept(source), _kept(output)
    same = {"times of frames": times == times_out, "packets of sound": sound == sound_out}
    print(f"{len(times)} frames, {len(sound)} packets of sound")
    for what, equal in same.items():
        print(f"{what}: {'equal' if equal else 'DIFFERENT'}")
    print(f"{used.ru_utime + used.ru_stime:.0f} s of CPU time")
    return 0 if all(same.values()) else 1


def _kept(path: Path) -> tuple[list[Fraction], list[tuple[Fraction, bytes]]]:
    """Returns the times of a film's frames in s, and its packets of sound with theirs."""
    import av

    sound = []
    with av.open(str(path)) as container:
        for packet in container.demux(audio=0):
            if packet.size:
                sound.append(((packet.pts or 0) * packet.time_base, bytes(packet)))
    with av.open(str(path)) as container:
        frames = container.decode(video=0)
        return [frame.pts * frame.time_base for frame in frames], sound


if __name__ == "__main__":
    sys.exit(main())
