import json
import struct
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dmphn_jax.commands import make_pairs
from dmphn_jax.data import video_pairs
from dmphn_jax.data.video_manifest import Manifest, PairOptions
from dmphn_jax.errors import UserError, run_command
from dmphn_jax.video.windows import average

needs_av = pytest.mark.skipif(
    __import__("importlib.util").util.find_spec("av") is None, reason="PyAV is not installed"
)


def shot(count, seed, size=(46, 62)):
    """A moving crop of a smooth random picture: uint8 (count, H, W, 3)."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (8, 8, 3), np.uint8)
    big = np.asarray(Image.fromarray(coarse).resize((size[1] + count, size[0]), Image.BICUBIC))
    return np.stack([big[:, i : i + size[1]] for i in range(count)])


def write_video(path, frames, codec="ffv1", pix_fmt="bgr0", rate=240, options=None):
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options=options or {})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pix_fmt
        for image in frames:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def run(*argv):
    return run_command(make_pairs.main, [str(a) for a in argv])


def read(path):
    return np.asarray(Image.open(path))


def manifest(folder):
    return json.loads((folder / "manifest.json").read_text())


def files(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


@needs_av
@pytest.mark.parametrize(("flags", "gamma"), [((), 1.0), (("--gamma", "2.2"), 2.2)])
def test_pairs_are_exact_averages_and_middles(tmp_path, flags, gamma):
    frames = shot(60, 0)
    video = write_video(tmp_path / "walk.mkv", frames)
    out = tmp_path / "pairs"
    assert run(video, "--output", out, *flags) == 0
    (entry,) = manifest(out)["videos"]
    assert entry["complete"]
    assert entry["frames"] == 60
    at = 0
    for pair in entry["pairs"]:
        first, last, count = pair["first"], pair["last"], pair["count"]
        assert (first, last) == (at, at + count - 1)
        assert 7 <= count <= 13
        at = last + 1
        part = frames[first : last + 1].astype(np.float64)
        expected = 255 * ((part / 255) ** gamma).mean(0) ** (1 / gamma)
        blurry = read(out / "blurry" / f"{pair['name']}.png")
        assert np.abs(blurry - expected).max() <= 0.5 + 1e-3
        np.testing.assert_array_equal(
            read(out / "sharp" / f"{pair['name']}.png"), frames[first + count // 2]
        )
        assert pair["middle"] == first + count // 2
        mse = np.mean((blurry.astype(float) - frames[pair["middle"]]) ** 2)
        assert pair["psnr"] == pytest.approx(10 * np.log10(255**2 / mse), abs=0.01)
    assert at > 60 - 13
    names = [f"{p['name']}.png" for p in entry["pairs"]]
    assert files(out) == sorted(
        [f"{side}/{name}" for side in ("blurry", "sharp") for name in names] + ["manifest.json"]
    )
    assert names[0] == "walk/000001.png"


@needs_av
def test_windows_never_reach_over_a_cut(tmp_path, capsys):
    shots = [shot(20, 1), shot(9, 2), shot(4, 3), shot(17, 4)]
    video = write_video(tmp_path / "film.mkv", np.concatenate(shots))
    assert run(video, "--output", tmp_path / "o", "--frames", "7") == 0
    assert "3 scene cuts" in capsys.readouterr().out
    ends = np.cumsum([0] + [len(s) for s in shots])
    (entry,) = manifest(tmp_path / "o")["videos"]
    found = [(pair["first"], pair["last"]) for pair in entry["pairs"]]
    expected = [
        (first, first + 6) for begin, end in pairwise(ends) for first in range(begin, end - 6, 7)
    ]
    assert found == expected
    # Without detection the windows run on.
    flags = ("--frames", "7", "--cut-threshold", "0")
    assert run(video, "--output", tmp_path / "o2", *flags) == 0
    assert len(manifest(tmp_path / "o2")["videos"][0]["pairs"]) == 50 // 7


@needs_av
def test_options(tmp_path):
    video = write_video(tmp_path / "v.mkv", shot(60, 5))
    out = tmp_path / "o"
    flags = ("--every", "10", "--max-pairs", "4", "--max-height", "23", "--odd", "--seed", "3")
    assert run(video, "--output", out, *flags) == 0
    pairs = manifest(out)["videos"][0]["pairs"]
    assert [pair["first"] for pair in pairs] == [0, 10, 20, 30]
    assert all(pair["count"] % 2 for pair in pairs)
    assert read(out / "sharp/v/000001.png").shape == (23, 31, 3)


@needs_av
def test_dry_run_writes_nothing(tmp_path, capsys):
    video = write_video(tmp_path / "v.mkv", shot(30, 5))
    assert run(video, "--output", tmp_path / "o", "--dry-run", "--frames", "10") == 0
    assert "3 pairs would be made of 30 frames" in capsys.readouterr().out
    assert not (tmp_path / "o").exists()


@needs_av
def test_a_bad_video_is_one_line_and_the_rest_go_on(tmp_path, capsys):
    good = write_video(tmp_path / "good.mkv", shot(30, 6))
    torn = tmp_path / "a_torn.mkv"
    torn.write_bytes(good.read_bytes()[:100])
    text = tmp_path / "b_text.mp4"
    text.write_text("no video")
    short = write_video(tmp_path / "c_short.mkv", shot(3, 6))
    missing = tmp_path / "missing.mov"
    assert run(tmp_path, missing, "--output", tmp_path / "o") == 1
    lines = capsys.readouterr().err.splitlines()
    for bad in (torn, text, short, missing):
        assert sum(str(bad) in line for line in lines) == 1
    assert lines[-1] == "dmphn: 4 of 5 videos failed"
    assert len(lines) == 5
    # What was wrong is told again, though nothing is done again.
    assert run(tmp_path, missing, "--output", tmp_path / "o") == 1
    assert sum(str(short) in line for line in capsys.readouterr().err.splitlines()) == 1
    assert (tmp_path / "o/blurry/good/000001.png").exists()
    assert not list((tmp_path / "o").rglob("*torn*"))


@needs_av
def test_hidden_files_of_a_folder_are_no_videos(tmp_path, capsys):
    unfinished = tmp_path / "videos/.out.mp4.parts/000000.nut"
    unfinished.parent.mkdir(parents=True)
    good = write_video(tmp_path / "videos/good.mkv", shot(30, 6))
    for path in (unfinished, good.with_name("._good.mkv")):
        path.write_bytes(b"no video")
    (tmp_path / "videos/folder.mp4").mkdir()
    assert run(tmp_path / "videos", "--output", tmp_path / "o") == 0
    assert [path.name for path in (tmp_path / "o/blurry").iterdir()] == ["good"]


def damage(video, frame):
    """Overwrites most of one frame's packet."""
    import av

    with av.open(str(video)) as container:
        packets = [p for p in container.demux(video=0) if p.size]
        at, size = packets[frame].pos, packets[frame].size
    data = bytearray(video.read_bytes())
    data[at + size // 4 : at + size] = b"\xff" * (size - size // 4)
    video.write_bytes(data)


@needs_av
@pytest.mark.parametrize(
    ("codec", "options", "resumes"),
    # A frame of its own is lost alone; with predicted ones all up to the next key frame are.
    [("png", {}, 28), ("libx264rgb", {"qp": "0", "g": "12", "bf": "0"}, 36)],
)
def test_damage_within_a_video_is_a_gap(tmp_path, capsys, codec, options, resumes):
    frames = shot(60, 7)
    video = write_video(tmp_path / "v.mov", frames, codec, "rgb24", options=options)
    damage(video, 27)
    assert run(video, "--output", tmp_path / "o", "--frames", "7") == 1
    line, last = capsys.readouterr().err.splitlines()
    assert "damaged in" in line
    assert last == "dmphn: 1 of 1 videos failed"
    expected = [0, 7, 14, *range(resumes, 60 - 6, 7)]
    pairs = manifest(tmp_path / "o")["videos"][0]["pairs"]
    for pair, first in zip(pairs, expected, strict=True):
        blurry, sharp = (read(tmp_path / f"o/{s}/{pair['name']}.png") for s in ("blurry", "sharp"))
        np.testing.assert_array_equal(sharp, frames[first + 3])
        mean = frames[first : first + 7].astype(float).mean(0)
        np.testing.assert_array_equal(blurry, np.floor(mean + 0.5))


@needs_av
@pytest.mark.parametrize("codec", ["mjpeg", "png"])
@pytest.mark.parametrize("part", [0.5, 0.77, 0.9])
def test_a_film_cut_off_is_said_and_its_half_frame_left_out(tmp_path, capsys, codec, part):
    """The last frame of a truncated AVI decodes to a picture that is half grey, unmarked."""
    pix_fmt = {"mjpeg": "yuvj444p", "png": "rgb24"}[codec]
    whole = write_video(tmp_path / "whole.avi", shot(60, 7), codec, pix_fmt)
    cut = tmp_path / "cut.avi"
    cut.write_bytes(whole.read_bytes()[: int(part * whole.stat().st_size)])
    flags = ("--output", tmp_path / "o", "--frames", "2")
    assert run(cut, *flags) == 1
    line, last = capsys.readouterr().err.splitlines()
    (entry,) = manifest(tmp_path / "o")["videos"]
    assert f"{cut}: cut off: {entry['missing']} of the 60 frames it promises are missing" in line
    assert "pairs were made of the rest" in line
    assert last == "dmphn: 1 of 1 videos failed"
    assert entry["frames"] + entry["missing"] == 60
    assert run(whole, *flags) == 0
    assert len(entry["pairs"]) == entry["frames"] // 2
    for pair in entry["pairs"]:
        for side in ("blurry", "sharp"):
            name = pair["name"].removeprefix("cut/")
            np.testing.assert_array_equal(
                read(tmp_path / "o" / side / f"cut/{name}.png"),
                read(tmp_path / "o" / side / f"whole/{name}.png"),
            )


@needs_av
def test_a_length_without_a_count_is_a_note(tmp_path, capsys):
    whole = write_video(tmp_path / "whole.mkv", shot(60, 7))
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    assert run(cut, "--output", tmp_path / "o", "--frames", "2") == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"dmphn: note: {cut}: ")
    assert "where its length says 60; it may be cut off" in line
    assert run(whole, "--output", tmp_path / "o2", "--frames", "2", "--max-pairs", "2") == 0
    assert "cut off" not in capsys.readouterr().err


@needs_av
def test_an_avi_of_predicted_frames_has_no_gaps(tmp_path, capsys):
    """It stores no times, and the order of its packets is not that of its frames."""
    options = {"qp": "0", "bf": "2", "g": "24"}
    video = write_video(tmp_path / "v.avi", shot(42, 7), "libx264rgb", "rgb24", options=options)
    assert run(video, "--output", tmp_path / "o", "--frames", "7") == 0
    assert not capsys.readouterr().err
    pairs = manifest(tmp_path / "o")["videos"][0]["pairs"]
    assert [pair["first"] for pair in pairs] == list(range(0, 42, 7))


@needs_av
def test_a_manifest_of_an_earlier_version_goes_on(tmp_path):
    video = write_video(tmp_path / "v.mkv", shot(30, 8))
    out = tmp_path / "o"
    assert run(video, "--output", out) == 0
    content = manifest(out)
    del content["videos"][0]["missing"]
    (out / "manifest.json").write_text(json.dumps(content))
    other = write_video(tmp_path / "w.mkv", shot(30, 9))
    assert run(video, other, "--output", out) == 0
    assert [entry["name"] for entry in manifest(out)["videos"]] == ["v", "w"]
    (out / "manifest.json").write_text(json.dumps(content | {"videos": [{"name": "v"}]}))
    assert run(other, "--output", out) == 2


@needs_av
def test_rerun_skips_and_overwrite_redoes(tmp_path, capsys):
    video = write_video(tmp_path / "v.mkv", shot(30, 8))
    out = tmp_path / "o"
    assert run(video, "--output", out) == 0
    blurry = out / "blurry/v/000001.png"
    before = blurry.read_bytes()
    blurry.write_bytes(b"changed")
    assert run(video, "--output", out) == 0
    assert "already done" in capsys.readouterr().out
    assert blurry.read_bytes() == b"changed"
    assert run(video, "--output", out, "--overwrite") == 0
    assert blurry.read_bytes() == before
    # Two videos of one name do not mix.
    (tmp_path / "other").mkdir()
    namesake = write_video(tmp_path / "other/v.mkv", shot(30, 9))
    assert run(namesake, "--output", out) == 0
    assert [e["name"] for e in manifest(out)["videos"]] == ["v", "v-2"]
    assert blurry.read_bytes() == before
    capsys.readouterr()
    assert run(video, "--output", out, "--gamma", "2.2") == 2
    assert "gamma=1.0, not 2.2" in capsys.readouterr().err


@needs_av
def test_an_interrupt_leaves_whole_pairs_and_a_rerun_completes(tmp_path, monkeypatch):
    video = write_video(tmp_path / "v.mkv", shot(60, 8))
    out, calls = tmp_path / "o", []

    def interrupted(images, gamma):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return average(images, gamma)

    monkeypatch.setattr(video_pairs, "average", interrupted)
    assert run(video, "--output", out) == 130
    (entry,) = manifest(out)["videos"]
    assert not entry["complete"]
    assert len(entry["pairs"]) <= 2
    listed = [f"{side}/{p['name']}.png" for side in ("blurry", "sharp") for p in entry["pairs"]]
    assert files(out) == sorted([*listed, "manifest.json"])
    monkeypatch.undo()
    assert run(video, "--output", out) == 0
    assert run(video, "--output", tmp_path / "fresh") == 0
    assert files(out) == files(tmp_path / "fresh")
    assert manifest(out)["videos"] == manifest(tmp_path / "fresh")["videos"]


@needs_av
def test_a_full_disk_is_one_line_and_leaves_nothing_half(tmp_path, monkeypatch, capsys):
    video = write_video(tmp_path / "v.mkv", shot(30, 8))
    real = Path.write_bytes

    def full(self, data):
        if "blurry" in self.parts:
            real(self, data[:10])
            raise OSError(28, "No space left on device")
        return real(self, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    assert run(video, "--output", tmp_path / "o") == 2
    assert "No space left on device" in capsys.readouterr().err
    assert files(tmp_path / "o") == ["manifest.json"]


@needs_av
@pytest.mark.parametrize(("matrix", "turns"), [((0, 1, -1, 0), 3), ((-1, 0, 0, -1), 2)])
def test_rotation_from_the_file_is_applied(tmp_path, matrix, turns):
    # A phone held upright stores lying frames and a matrix: patch it into the track's header.
    frames = shot(8, 9)
    video = write_video(tmp_path / "phone.mov", frames, codec="png", pix_fmt="rgb24")
    data = bytearray(video.read_bytes())
    at = data.index(b"tkhd") + 4 + 40
    a, b, c, d = (v << 16 for v in matrix)
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    video.write_bytes(data)
    assert run(video, "--output", tmp_path / "o", "--frames", "7") == 0
    np.testing.assert_array_equal(
        read(tmp_path / "o/sharp/phone/000001.png"), np.rot90(frames[3], turns)
    )


@needs_av
def test_ten_bits_and_odd_sizes(tmp_path):
    ramp = np.linspace(0, 255, 63).astype(np.uint8)
    image = np.broadcast_to(ramp[None, :, None], (41, 63, 3))
    video = write_video(tmp_path / "v.mkv", [image] * 8, pix_fmt="yuv444p10le")
    assert run(video, "--output", tmp_path / "o", "--frames", "7") == 0
    blurry = read(tmp_path / "o/blurry/v/000001.png").astype(int)
    assert blurry.shape == (41, 63, 3)
    assert np.abs(blurry - image).max() <= 2


@needs_av
def test_missing_frames_are_not_bridged(tmp_path, capsys):
    import av

    frames = shot(40, 3)
    with av.open(str(tmp_path / "v.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=100)
        stream.height, stream.width, stream.pix_fmt = 46, 62, "bgr0"
        for i, image in enumerate(frames):
            if i not in (17, 18):
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
                frame.pts = i
                container.mux(stream.encode(frame))
        container.mux(stream.encode())
    assert run(tmp_path / "v.mkv", "--output", tmp_path / "o", "--frames", "7") == 0
    assert "missing in 1 places" in capsys.readouterr().err
    pairs = manifest(tmp_path / "o")["videos"][0]["pairs"]
    assert [pair["first"] for pair in pairs] == [0, 7, 17, 24, 31]


@needs_av
def test_slow_frame_rates_are_noted(tmp_path, capsys):
    video = write_video(tmp_path / "v.mkv", shot(9, 1), rate=30)
    assert run(video, "--output", tmp_path / "o", "--frames", "7") == 0
    assert "30 frames/s" in capsys.readouterr().err


def test_without_pyav_one_line_says_how_to_get_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "av", None)
    assert run(tmp_path / "v.mp4", "--output", tmp_path / "o") == 2
    error = capsys.readouterr().err
    assert "pip install 'dmphn_jax[video]'" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (("--frames", "9-7"), "--frames 9-7"),
        (("--frames", "1"), "at least 2"),
        (("--frames", "8", "--odd"), "--odd"),
        (("--gamma", "0"), "--gamma 0"),
        (("--max-pairs", "0"), "--max-pairs 0"),
        (("--cut-threshold", "2"), "--cut-threshold 2"),
    ],
)
def test_wrong_flags_are_one_line(tmp_path, capsys, flags, text):
    assert run("v.mp4", "--output", tmp_path, *flags) == 2
    error = capsys.readouterr().err
    assert text in error
    assert error.count("\n") == 1


def test_a_foreign_folder_is_left_alone(tmp_path):
    (tmp_path / "sharp").mkdir()
    with pytest.raises(UserError, match="no manifest"):
        Manifest(tmp_path, PairOptions())
    with pytest.raises(UserError, match="holds no videos"):
        make_pairs.main([str(tmp_path), "--output", str(tmp_path / "o")])
