"""Films through `run_films`, with an identity in the network's place."""

import signal
import subprocess
import sys
import time
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from dmphn_jax.inference import deblurrer as inference
from dmphn_jax.video import parts
from dmphn_jax.video.encoding import Encoding
from tests.support.deblur import deblurrer_of, run
from tests.support.films import STEP, deblur, facts, make_film, pictures, remake

pytest.importorskip("av")

SUBTITLES = "1\n00:00:00,200 --> 00:00:01,000\nHello\n\n2\n00:00:01,100 --> 00:00:01,900\nYou\n"
VARYING = np.cumsum(np.random.default_rng(0).integers(200, 1500, 60))


@pytest.mark.parametrize(
    ("suffix", "times"), [("mp4", None), ("mov", None), ("mp4", VARYING), ("mkv", VARYING)]
)
def test_frames_times_and_sound_are_the_inputs(tmp_path, suffix, times):
    source = make_film(tmp_path / f"in.{suffix}", times=times)
    output = tmp_path / f"out.{suffix}"
    seen = []
    result = deblur(source, output, lambda image: seen.append(image) or 255 - image)
    assert not result.failure
    before, after = facts(source), facts(output)
    assert len(after.images) == 60
    assert after.times == before.times
    assert after.seconds("audio") == before.seconds("audio")
    assert after.data("audio") == before.data("audio")
    assert after.colors == before.colors == (1, 1, 1, 1)
    # Every frame went through the network (the last batch is filled up), and is where it was.
    assert len(seen) == 64
    assert np.abs(after.images.mean((1, 2, 3)) - (255 - before.images.mean((1, 2, 3)))).max() < 2
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([source.name, output.name])


@pytest.mark.parametrize("codec", ["h264", "h265", "av1", "vp9", "ffv1", "prores"])
def test_codecs_keep_the_times_whatever_they_reorder(tmp_path, codec):
    source = make_film(tmp_path / "in.mkv", pictures(60, (64, 80)), times=VARYING, sound=None)
    output = tmp_path / "out.mkv"
    result = deblur(source, output, encoding=Encoding(codec))
    assert not result.failure
    before, after = facts(source), facts(output)
    assert after.times == before.times
    assert after.colors == before.colors
    assert np.abs(after.images.mean((1, 2, 3)) - before.images.mean((1, 2, 3))).max() < 2


def test_rotation_is_applied(tmp_path):
    source = make_film(tmp_path / "in.mp4", rotation=90)
    assert not deblur(source, tmp_path / "out.mp4").failure
    before, after = facts(source), facts(tmp_path / "out.mp4")
    assert (before.rotation, after.rotation) == (90, 0)
    turned = np.rot90(before.images, 1, axes=(1, 2)).astype(int)
    assert np.abs(after.images - turned).mean() < 3


@pytest.mark.parametrize("depth", [8, 10])
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("matrix", [1, 6, 9])
def test_flat_colours_survive(tmp_path, matrix, full, depth):
    """bt709, bt601 and bt2020; of a lossless film, so that only the conversions show."""
    colours = np.array([[255, 255, 255], [0, 0, 0], [180, 40, 30], [20, 150, 60], [30, 60, 200]])
    images = np.broadcast_to(colours[:, None, None].astype(np.uint8), (5, 32, 32, 3))
    pixel_format = "yuv420p" if depth == 8 else "yuv420p10le"
    make = {"codec": "ffv1", "pixel_format": pixel_format, "matrix": matrix, "full": full}
    source = make_film(tmp_path / "in.mkv", images, sound=None, **make)
    seen = []
    result = deblur(
        source,
        tmp_path / "out.mkv",
        lambda image: seen.append(image) or image,
        encoding=Encoding("ffv1"),
    )
    assert not result.failure
    # What the network saw is the colour itself: the matrix and the range were the film's own.
    assert seen[0].dtype == (np.uint8 if depth == 8 else np.uint16)
    levels = np.stack(seen[:5])[:, 16, 16].astype(float) / (1 if depth == 8 else 257)
    assert np.abs(levels - colours).max() <= 2
    before, after = facts(source), facts(tmp_path / "out.mkv")
    assert after.pixel_format == pixel_format
    assert after.colors == before.colors
    assert np.abs(after.images.astype(int) - before.images).max() <= 2


def test_ten_bit_films_stay_so_unless_told_otherwise(tmp_path):
    source = make_film(
        tmp_path / "in.mp4",
        codec="libx265",
        pixel_format="yuv420p10le",
        sound=None,
        options={"x265-params": "log-level=none"},
    )
    for ten_bit, codec, pixel_format in (
        (None, "hevc", "yuv420p10le"),
        (False, "h264", "yuv420p"),
    ):
        output = tmp_path / f"{ten_bit}.mp4"
        assert not deblur(source, output, encoding=Encoding(ten_bit=ten_bit)).failure
        assert (facts(output).codec, facts(output).pixel_format) == (codec, pixel_format)


def test_a_cut_begins_at_zero_with_its_own_sound(tmp_path):
    source, output = make_film(tmp_path / "in.mp4"), tmp_path / "out.mp4"
    assert not deblur(source, output, first=15, stop=45).failure
    before, after = facts(source), facts(output)
    assert after.times == [time - before.times[15] for time in before.times[15:45]]
    first = before.times[15]
    expected = [(t - first, data) for t, data in before.others["audio"] if first <= t < first + 1]
    assert [data for _, data in expected] == after.data("audio")
    for (moment, _), moved in zip(expected, after.seconds("audio")):
        assert abs(moment - moved) < 1e-4  # a tick of 1/48000
    assert "no frame in --frames 100:" in deblur(source, tmp_path / "no.mp4", first=100).failure


def test_subtitles_and_cover_are_kept_where_the_container_can(tmp_path):
    plain = make_film(tmp_path / "plain.mp4")
    texts = remake(tmp_path / "texts.mkv", plain, subtitles=SUBTITLES)
    assert not deblur(texts, tmp_path / "out.mkv").notes
    assert facts(tmp_path / "out.mkv").data("subtitle") == facts(texts).data("subtitle")
    (note,) = deblur(texts, tmp_path / "out.mp4").notes
    assert note.endswith("is not kept: .mp4 cannot hold it")
    assert "subtitle" in note
    cover = remake(tmp_path / "cover.mp4", plain, cover=True)
    for output in (tmp_path / "covered.mp4", tmp_path / "covered.mkv"):
        assert not deblur(cover, output).notes
        assert facts(output).data("video") == facts(cover).data("video")


def test_odd_sizes(tmp_path):
    images = pictures(10, (47, 63))
    source = make_film(tmp_path / "in.mkv", images, codec="ffv1")
    (note,) = deblur(source, tmp_path / "out.mp4").notes
    assert "63x47 is odd: written as 64x48" in note
    assert facts(tmp_path / "out.mp4").images.shape == (10, 48, 64, 3)
    assert not deblur(source, tmp_path / "out.mkv", encoding=Encoding("vp9")).notes
    assert facts(tmp_path / "out.mkv").images.shape == images.shape


def test_pictures_to_a_film_and_a_film_to_pictures(tmp_path):
    folder = tmp_path / "frames"
    folder.mkdir()
    images = pictures(12)
    for index, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{index}.png")  # 10.png sorts before 2.png
    film = tmp_path / "out.mkv"
    assert not deblur(folder, film, encoding=Encoding("ffv1"), rate=Fraction(25)).failure
    np.testing.assert_array_equal(facts(film).images, images)
    assert len(facts(film).times) == 12
    calls = []
    back = tmp_path / "back"
    assert not deblur(film, back, frames=".png").failure
    names = sorted(path.name for path in back.glob("[0-9]*"))
    assert names == [f"{index:06}.png" for index in range(12)]
    (back / names[11]).unlink()
    deblur(film, back, lambda image: calls.append(1) or image, frames=".png")
    assert len(calls) == 8  # one batch
    assert (back / names[11]).exists()
    Image.fromarray(images[0][:20]).save(folder / "5.png")
    assert "a film has one size" in deblur(folder, tmp_path / "no.mp4").failure
    assert not list(tmp_path.glob(".*"))


def test_hostile_files_are_a_line_each(tmp_path):
    whole = make_film(tmp_path / "whole.mp4", options={"movflags": "faststart"})
    silent = make_film(tmp_path / "no_frame.mkv", [np.zeros((48, 64, 3), np.uint8)], times=[])
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("a text, by name a film")
    (tmp_path / "cut.mp4").write_bytes(whole.read_bytes()[:3000])
    Image.new("RGB", (9, 9)).save(tmp_path / "picture.mp4", "PNG")
    import av

    with av.open(str(tmp_path / "sound.mp4"), "w") as container, av.open(str(whole)) as original:
        audio = original.streams.audio[0]
        stream = container.add_stream_from_template(audio, opaque=True)
        for packet in original.demux(audio):
            if packet.size:
                packet.stream = stream
                container.mux(packet)
    remake(tmp_path / "cover.mp4", tmp_path / "sound.mp4", cover=True)
    for name, reason in {
        "empty.mp4": "cannot be read as video",
        "text.mp4": "cannot be read as video",
        "cut.mp4": "cannot be read as video",
        "sound.mp4": "holds no video stream",
        "cover.mp4": "a still picture only",
        silent.name: "",
        "missing.mp4": "No such file",
        "text.mp4/": "",
    }.items():
        failure = deblur(tmp_path / name, tmp_path / "out.mp4").failure
        assert failure, name
        assert reason in failure
        assert "Error" not in failure
        assert "\n" not in failure
    assert not deblur(tmp_path / "picture.mp4", tmp_path / "out.mp4").failure  # one frame
    assert "--max-pixels" in deblur(whole, tmp_path / "large.mp4", max_pixels=100).failure
    assert sorted(path.name for path in tmp_path.glob("*out*")) == ["out.mp4"]
    assert not list(tmp_path.glob(".*"))


def test_a_film_cut_off_is_made_as_far_as_it_goes(tmp_path):
    whole = make_film(tmp_path / "whole.mkv", sound=None)
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size * 2 // 3])
    result = deblur(cut, tmp_path / "out.mkv")
    assert not result.failure
    assert any("cut off" in note for note in result.notes)
    count = len(facts(tmp_path / "out.mkv").times)
    assert 10 < count < 60


def test_what_cannot_be_written_is_a_line(tmp_path):
    source = make_film(tmp_path / "in.mp4")
    uneven = make_film(tmp_path / "uneven.mkv", times=VARYING, sound=None)
    assert "varying times" in deblur(uneven, tmp_path / "out.avi").failure
    assert not deblur(source, tmp_path / "even.avi").failure
    assert (
        "8 bits here"
        in deblur(source, tmp_path / "o.webm", encoding=Encoding("vp9", ten_bit=True)).failure
    )
    assert "cannot be written" in deblur(source, source / "below" / "a_file.mp4").failure
    (note,) = deblur(source, tmp_path / "sound.webm").notes
    assert "aac" in note


KILLED = """
import sys, time
from dmphn_jax.commands import deblur
from dmphn_jax.inference import deblurrer as inference
from dmphn_jax.video import parts
from tests.support.deblur import deblurrer_of

parts._LEAST = parts._MOST = 8
frames = []

def slow(image):
    frames.append(1)
    if len(frames) == 40:
        print("waiting", flush=True)
        time.sleep(60)
    return image

inference.Deblurrer = deblurrer_of(slow)
from dmphn_jax.errors import run_command
sys.exit(run_command(deblur.main, sys.argv[1:]))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_killed_film_goes_on_and_equals_an_uninterrupted_one(tmp_path, number, monkeypatch):
    monkeypatch.setattr(parts, "_LEAST", 8)
    monkeypatch.setattr(parts, "_MOST", 8)
    source, output = make_film(tmp_path / "in.mp4"), tmp_path / "out" / "film.mkv"
    checkpoint, reference = tmp_path / "checkpoint", tmp_path / "reference.mkv"
    checkpoint.mkdir()
    # Lossless: H.264 of some sizes differs from run to run, which is x264's doing.
    assert not deblur(source, reference, encoding=Encoding("ffv1")).failure
    command = [source, "-c", checkpoint, "-o", output, "--codec", "ffv1", "-q"]
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout.readline() == b"waiting\n"
    written = tmp_path / "out" / ".film.mkv.parts"
    until = time.monotonic() + 30
    while not (written / "000001.json").exists() and time.monotonic() < until:
        time.sleep(0.01)
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == (143 if number == signal.SIGTERM else -number)
    assert b"Traceback" not in error
    assert not output.exists()
    done = len(list(written.glob("0*.json")))
    assert done >= 2
    calls = []
    monkeypatch.setattr(inference, "Deblurrer", deblurrer_of(lambda x: calls.append(1) or x))
    assert run(*command) == 0
    assert len(calls) == 64 - 8 * done
    whole, expected = facts(output), facts(reference)
    np.testing.assert_array_equal(whole.images, expected.images)
    assert (whole.times, whole.others) == (expected.times, expected.others)
    assert not written.exists()


def stopped(tmp_path, monkeypatch):
    """A film of which an error stopped the making half way."""
    monkeypatch.setattr(parts, "_LEAST", 8)
    monkeypatch.setattr(parts, "_MOST", 8)
    source, output = make_film(tmp_path / "in.mp4"), tmp_path / "out.mp4"
    calls = []

    def failing(image):
        calls.append(1)
        if len(calls) > 50:
            raise MemoryError
        return image

    assert "too large for memory" in deblur(source, output, failing).failure
    assert list((tmp_path / ".out.mp4.parts").glob("0*.json"))
    return source, output


def test_parts_of_another_run_are_not_mixed_in(tmp_path, monkeypatch):
    source, output = stopped(tmp_path, monkeypatch)
    calls = []
    result = deblur(source, output, lambda x: calls.append(1) or x, model={"--stages": "2"})
    assert len(calls) == 64
    (note,) = result.notes
    assert "started again" in note
    assert "--stages is another now" in note


def test_two_processes_at_one_film(tmp_path, monkeypatch):
    source, output = stopped(tmp_path, monkeypatch)
    held = parts.Parts(output, {})
    assert "another process is making it" in deblur(source, output).failure
    held.close()
    assert not deblur(source, output).failure


MEMORY = """
import pathlib, re, sys
from tests.support.films import deblur

assert not deblur(sys.argv[1], sys.argv[2]).failure
print(re.search(r"VmHWM:\\s*(\\d+)", pathlib.Path("/proc/self/status").read_text())[1])
"""


def test_memory_does_not_grow_with_the_film(tmp_path):
    """Two minutes and ten, at 2 frames/s: frames that are held would be 41 MB more."""
    peaks = []
    for minutes in (2, 10):
        count = 120 * minutes
        source = make_film(
            tmp_path / f"{minutes}.mp4",
            pictures(count, (90, 160)),
            times=[15 * STEP * index for index in range(count)],
            sound=None,
            options={"preset": "ultrafast"},
        )
        done = subprocess.run(
            [sys.executable, "-c", MEMORY, source, tmp_path / f"out{minutes}.mp4"],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        peaks.append(int(done.stdout) / 1024)
    assert peaks[1] - peaks[0] < 15, peaks
