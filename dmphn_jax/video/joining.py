"""Parts to a film, beside the sound and whatever else the source holds: nothing is re-encoded."""

from __future__ import annotations

import collections
import heapq
import io
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import av
from av.stream import Discard, Disposition

from dmphn_jax.files import new_file
from dmphn_jax.video.colors import Converter
from dmphn_jax.video.encoding import Settled
from dmphn_jax.video.film import FilmInfo
from dmphn_jax.video.parts import Part, written_colors
from dmphn_jax.video.reading import open_film

if TYPE_CHECKING:
    from av.container import InputContainer, OutputContainer
    from av.packet import Packet
    from av.stream import Stream

_Timed = tuple[float, "Packet"]
_BRANDS = {"major_brand", "minor_version", "compatible_brands", "encoder"}
_KEPT_TAGS = ("language", "title", "handler_name")
_PICTURES = {"mjpeg": ("cover.jpg", "image/jpeg"), "png": ("cover.png", "image/png")}


def join(
    parts: Sequence[Part],
    output: str,
    settled: Settled,
    info: FilmInfo,
    *,
    source: Path | None,
    cut: bool,
) -> list[str]:
    """Writes the film whole or not at all; returns notes on what of `source` it does not keep.

    Packets of sound, subtitles and the rest come from `source` as they are, with their times.

    Args:
      parts: all of them, at least one.
      output: the film.
      settled: how the parts were written.
      info: of the frames.
      source: the film they come from; None if they come from pictures.
      cut: whether the parts are a cut from it: times then begin at 0, and what plays before or
        after is left out.

    Raises av.error.FFmpegError or OSError if it cannot be written, VideoError if `source` cannot be
    read.
    """
    options = {}
    if settled.container in ("mp4", "mov"):
        # Where the streams begin is told in units of their own: the usual one is a millisecond.
        units = info.time_base.denominator
        scale = min(10**6, units * -(-1000 // units))
        options = {"movflags": "faststart", "movie_timescale": str(scale)}
    first, last = parts[0].times[0], parts[-1].times[-1] + info.step
    with new_file(output) as temporary:
        container = av.open(str(temporary), "w", format=settled.container, options=options)
        with container:
            video = _video_stream(container, parts[0], settled, info)
            shift = first if cut else 0
            packets: list[Iterator[_Timed]] = [_video(parts, video, settled, info, shift)]
            if source is None:
                _mux(container, packets)
                return []
            with open_film(source) as original:
                streams, notes = _copied(container, original, settled, source)
                video_metadata = _main(original).metadata
                video.metadata.update(_tags(video_metadata))
                container.metadata.update(
                    {k: v for k, v in original.metadata.items() if k not in _BRANDS}
                )
                notes += _keep_chapters(container, original, settled, cut)
                window = (first * info.time_base, last * info.time_base) if cut else None
                packets.append(_others(original, streams, window))
                _mux(container, packets)
    return notes


def _keep_chapters(
    container: OutputContainer, original: InputContainer, settled: Settled, cut: bool
) -> list[str]:
    """Copies the source's chapters; returns a note where they cannot be kept."""
    chapters = original.chapters()
    if not chapters:
        return []
    if cut:
        return ["chapters are not kept: this is a part of the film"]
    if settled.container == "avi":
        return ["chapters are not kept: .avi cannot hold them"]
    container.set_chapters(chapters)
    return []


def _mux(container: OutputContainer, packets: list[Iterator[_Timed]]) -> None:
    """Writes packets of several sources in the order of their times: none waits for long."""
    for _, packet in heapq.merge(*packets, key=lambda timed: timed[0]):
        container.mux_one(packet)


def _video_stream(
    container: OutputContainer, part: Part, settled: Settled, info: FilmInfo
) -> Stream:
    with av.open(str(part.path)) as first:
        stream = container.add_stream_from_template(first.streams.video[0], opaque=True)
    stream.time_base = 1 / info.rate if settled.container == "avi" else info.time_base
    Converter(written_colors(info, settled)).tag(stream.codec_context)
    stream.codec_context.sample_aspect_ratio = info.aspect
    if settled.codec == "h265" and settled.container in ("mp4", "mov"):
        stream.codec_context.codec_tag = "hvc1"  # what Apple's players ask for
    return stream


def _video(
    parts: Sequence[Part], stream: Stream, settled: Settled, info: FilmInfo, shift: int
) -> Iterator[_Timed]:
    """Yields the parts' packets with the film's times.

    A packet's decoding time is the showing time of the frame `delay` frames before it, counted
    in the order of packets: it never decreases, and no packet is shown before it is decoded.
    """
    delay = max(part.delay for part in parts)
    first = parts[0].times[0]
    earlier = collections.deque(first - (delay - i) * info.step for i in range(delay))
    even = settled.container == "avi"
    count = 0
    for part in parts:
        with av.open(str(part.path)) as container:
            start: int | None = None
            packets = (p for p in container.demux(container.streams.video[0]) if p.size)
            for time, packet in zip(part.times, packets, strict=True):
                start = packet.pts if start is None else start
                earlier.append(time)
                passed = (packet.pts - start) * packet.time_base / info.time_base
                packet.pts = part.times[0] + round(passed) - shift
                packet.dts = earlier.popleft() - shift
                packet.time_base, packet.duration = info.time_base, info.step
                if even:
                    packet.pts = packet.dts = count
                    packet.time_base, packet.duration = 1 / info.rate, 1
                count += 1
                packet.stream = stream
                yield float(packet.dts * packet.time_base), packet


def _main(container: InputContainer) -> Stream:
    """The stream that was deblurred; `Video` takes the same one."""
    return next(s for s in container.streams.video if not s.disposition & Disposition.attached_pic)


def _copied(
    container: OutputContainer, original: InputContainer, settled: Settled, source: Path
) -> tuple[dict[int, Stream], list[str]]:
    """Adds the source's other streams; returns them by index, and notes on some of them."""
    main = _main(original)
    streams: dict[int, Stream] = {}
    notes = []
    for stream in original.streams:
        if stream.index == main.index:
            continue
        if stream.disposition & Disposition.attached_pic and settled.container == "matroska":
            if _attach_picture(container, stream, source):
                continue
        elif _fits(stream, settled.container):
            copied = container.add_stream_from_template(stream, opaque=True)
            copied.disposition = stream.disposition
            copied.metadata.update(stream.metadata)
            streams[stream.index] = copied
            if stream.type == "video" and not stream.disposition & Disposition.attached_pic:
                notes.append(f"stream {stream.index} (video) is kept as it is, not deblurred")
            continue
        codec = stream.codec_context.name if stream.codec_context else "unknown"
        kind = "cover picture" if stream.disposition & Disposition.attached_pic else stream.type
        where = "." + {"matroska": "mkv"}.get(settled.container, settled.container)
        notes.append(f"stream {stream.index} ({kind}, {codec}) is not kept: {where} cannot hold it")
    return streams, notes


def _fits(stream: Stream, container: str) -> bool:
    """Tells by a trial whether a container takes a stream's packets."""
    if stream.type == "attachment" and container != "matroska":
        return False
    try:
        with av.open(io.BytesIO(), "w", format=container) as trial:
            trial.add_stream_from_template(stream, opaque=True)
            trial.start_encoding()
    except (ValueError, OSError, TypeError, RuntimeError):  # FFmpegError is one of them
        return False
    return True


def _attach_picture(container: OutputContainer, stream: Stream, source: Path) -> bool:
    """Puts a cover picture into Matroska the way it holds one; returns whether it could."""
    codec = stream.codec_context.name if stream.codec_context else ""
    if codec not in _PICTURES:
        return False
    with open_film(source) as again:
        for packet in again.demux(again.streams[stream.index]):
            if packet.size:
                container.add_attachment(*_PICTURES[codec], bytes(packet))
                return True
    return False


def _tags(metadata: dict[str, str]) -> dict[str, str]:
    return {key: metadata[key] for key in _KEPT_TAGS if key in metadata}


def _others(
    original: InputContainer,
    streams: dict[int, Stream],
    window: tuple[Fraction, Fraction] | None,
) -> Iterator[_Timed]:
    """Yields the source's packets of `streams`; those within a window of seconds, from 0 on."""
    chosen = [original.streams[index] for index in streams]
    if not chosen:
        return
    for stream in original.streams:
        if stream.index not in streams:
            stream.discard = Discard.all
    time = 0.0
    packets = original.demux(chosen)
    while True:
        try:
            packet = next(packets, None)
        except av.error.FFmpegError:  # the file ends amid a packet
            return
        if packet is None:
            return
        if not packet.size:
            continue
        moment = packet.dts if packet.dts is not None else packet.pts
        if moment is not None and packet.time_base:
            seconds = moment * packet.time_base
            picture = packet.stream.disposition & Disposition.attached_pic
            if window and not picture:
                if not window[0] <= seconds < window[1]:
                    continue
                back = round(window[0] / packet.time_base)
                packet.pts = None if packet.pts is None else packet.pts - back
                packet.dts = None if packet.dts is None else packet.dts - back
                seconds -= window[0]
            time = float(seconds)
        packet.stream = streams[packet.stream.index]
        yield time, packet
