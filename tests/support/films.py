"""Little films made on the fly, and what is in a film."""

from __future__ import annotations

import contextlib
import io
from fractions import Fraction
from typing import NamedTuple

import numpy as np
from PIL import Image

from dmphn_jax.inference.films import FilmOptions, run_films
from dmphn_jax.inference.jobs import Job
from tests.support.deblur import submitting

TICK = Fraction(1, 15360)
STEP = 512  # ticks of a frame at 30 frames/s


def pictures(count, size=(48, 64)):
    """Frames that differ from each other: a bar that moves over gray."""
    images = np.full((count, *size, 3), 100, np.uint8)
    for index, image in enumerate(images):
        at = 2 * index % size[1]
        image[:, at : at + 8] = (200, 60, index % 180)
    return images


def make_film(
    path,
    images=None,
    *,
    times=None,
    codec="libx264",
    pixel_format="yuv420p",
    matrix=1,
    full=False,
    rotation=0,
    sound="aac",
    options=None,
):
    """Writes a film with a tone of its length: 30 frames/s, or `times` in `TICK`."""
    import av

    images = pictures(60) if images is None else images
    times = [STEP * index for index in range(len(images))] if times is None else times
    with av.open(str(path), "w") as container:
        video = container.add_stream(codec, rate=30, options=options or {})
        video.height, video.width = images[0].shape[:2]
        video.pix_fmt, video.time_base = pixel_format, TICK
        context = video.codec_context
        context.time_base = TICK
        context.color_range, context.colorspace = 2 if full else 1, matrix
        context.color_primaries = context.color_trc = 1
        if rotation:
            video.set_display_rotation(rotation)
        audio = container.add_stream(sound, rate=48000) if sound else None
        for image, time in zip(images, times):
            frame = av.VideoFrame.from_ndarray(image)
            frame.colorspace = matrix
            frame = frame.reformat(
                format=pixel_format,
                interpolation="BICUBIC",
                src_color_range=2,
                dst_color_range=2 if full else 1,
            )
            frame.pts, frame.time_base = int(time), TICK
            container.mux(video.encode(frame))
        container.mux(video.encode())
        if audio:
            _add_tone(container, audio, float((times[-1] + STEP) * TICK) if len(times) else 1.0)
    return path


def _add_tone(container, stream, seconds):
    import av

    for start in range(0, int(48000 * seconds), 1024):
        tone = 0.3 * np.sin(np.arange(start, start + 1024, dtype="f4") / 20)
        frame = av.AudioFrame.from_ndarray(np.stack([tone, tone]), format="fltp", layout="stereo")
        frame.sample_rate, frame.pts, frame.time_base = 48000, start, Fraction(1, 48000)
        container.mux(stream.encode(frame))
    container.mux(stream.encode())


def remake(path, source, *, cover=False, subtitles=None, chapters=None, second=None):
    """Copies a film's packets to another, beside a cover, SubRip, chapters or a second film."""
    import av
    from av.stream import Disposition

    with contextlib.ExitStack() as stack:
        original = stack.enter_context(av.open(str(source)))
        container = stack.enter_context(av.open(str(path), "w"))
        pairs = [
            (stream, container.add_stream_from_template(stream, opaque=True))
            for stream in original.streams
        ]
        if chapters:
            container.set_chapters(chapters)
        if second:
            beside = stack.enter_context(av.open(str(second)))
            copied = container.add_stream_from_template(beside.streams.video[0], opaque=True)
            for packet in beside.demux(video=0):
                if packet.size:
                    packet.stream = copied
                    container.mux(packet)
        if cover:
            still = container.add_stream("mjpeg")
            still.width = still.height = 32
            still.pix_fmt, still.time_base = "yuvj420p", Fraction(1, 90000)
            still.disposition = Disposition.attached_pic
            file = io.BytesIO()
            Image.new("RGB", (32, 32), (200, 10, 10)).save(file, "JPEG")
            packet = av.Packet(file.getvalue())
            packet.stream, packet.pts, packet.dts, packet.is_keyframe = still, 0, 0, True
            container.mux(packet)
        if subtitles:
            texts = stack.enter_context(av.open(io.BytesIO(subtitles.encode()), format="srt"))
            copied = container.add_stream_from_template(texts.streams[0], opaque=True)
            copied.metadata["language"] = "eng"
            for packet in texts.demux():
                if packet.size:
                    packet.stream = copied
                    container.mux(packet)
        for packet in original.demux():
            if packet.size:
                packet.stream = pairs[packet.stream.index][1]
                container.mux(packet)
    return path


class Facts(NamedTuple):
    """What is in a film: frames as RGB with their times, the other streams' packets."""

    images: np.ndarray
    times: list[Fraction]
    others: dict[str, list[tuple[Fraction, bytes]]]
    colors: tuple[int, int, int, int]  # matrix, range, primaries, transfer
    pixel_format: str
    codec: str
    rotation: int

    def seconds(self, kind):
        """The times of a stream's packets."""
        return [time for time, _ in self.others[kind]]

    def data(self, kind):
        """The bytes of a stream's packets."""
        return [data for _, data in self.others[kind]]


def facts(path):
    """Reads a film whole."""
    import av

    others, images, times = {}, [], []
    with av.open(str(path)) as container:
        for packet in container.demux():
            if packet.size and packet.stream.index != 0:
                entry = ((packet.pts or 0) * packet.time_base, bytes(packet))
                others.setdefault(packet.stream.type, []).append(entry)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        for frame in container.decode(stream):
            images.append(frame.to_ndarray(format="rgb24"))
            times.append(frame.pts * frame.time_base)
        colors = (frame.colorspace, frame.color_range, frame.color_primaries, frame.color_trc)
        return Facts(
            np.stack(images),
            times,
            others,
            tuple(int(value) for value in colors),
            stream.codec_context.pix_fmt,
            stream.codec_context.name,
            frame.rotation,
        )


class _NoBar:
    def update(self, frames):
        pass

    def close(self):
        pass


def no_bar(name, done, total):
    """What `run_films` shows its progress on: nothing."""
    return _NoBar()


def deblur(source, output, function=lambda image: image, *, frames=None, model=None, **options):
    """Runs the job of one film with `function` in the network's place; returns the Result."""
    job = Job(str(source), str(output), film=True, frames=frames)
    (result,) = run_films(
        [job],
        submitting(function),
        FilmOptions(**options),
        model=model or {},
        devices=1,
        progress=no_bar,
    )
    return result
