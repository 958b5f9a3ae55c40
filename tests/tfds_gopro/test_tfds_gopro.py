"""From a dataset's tree or zip to prepared records and back, and every way that can go wrong."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dmphn_jax.data import splits
from dmphn_jax.data.tiles import crop_starts, tile_of, tile_starts
from dmphn_jax.errors import UserError, one_line, run_command
from tests.support import data_tree
from tfds_gopro import prepare, trees, writer

ROOT = Path(__file__).resolve().parents[2]


def run(*argv: object) -> None:
    assert prepare.main([*map(str, argv), "--quiet"]) == 0


def left_over(folder: Path) -> list[str]:
    return sorted(str(path) for path in folder.rglob("*"))


@pytest.fixture
def tree(tmp_path):
    return tmp_path / "GOPRO_Large", data_tree.gopro_tree(tmp_path / "GOPRO_Large")


@pytest.fixture
def data_dir(tmp_path):
    return tmp_path / "D"


SMALL = ("--allow-partial", "--size", "64", "--stride", "32", "--workers", "2")


def test_published_split_counts():
    counts = {
        split: sum(last - first + 1 for first, last in sequences.values())
        for split, sequences in splits.GOPRO.items()
    }
    assert counts == {"train": 2103, "test": 1111}
    assert [len(splits.GOPRO[s]) for s in ("train", "test")] == [22, 11]
    assert not set(splits.GOPRO["train"]) & set(splits.GOPRO["test"])
    assert len(set(splits.VIDEO_DEBLURRING_TEST)) == 10
    # MATLAB: floor(linspace(2, 97, 30)) - 1
    scored = np.floor(np.linspace(2, 97, 30)).astype(int) - 1
    assert splits.video_deblurring_scored_frames() == scored.tolist()
    assert max(splits.video_deblurring_scored_frames(50)) < 50


def whole_gopro():
    return {
        split: {
            name: [f"{n:06d}" for n in range(first, last + 1)]
            for name, (first, last) in sequences.items()
        }
        for split, sequences in splits.GOPRO.items()
    }


def test_missing_gopro_names_what_is_missing():
    assert splits.missing_gopro(whole_gopro()) == []
    part = whole_gopro()
    part["train"]["GOPR0380_11_00"].remove("000150")
    del part["test"]["GOPR0862_11_00"]
    part["test"]["GOPR9999_11_00"] = ["000001"]
    train, test = splits.missing_gopro(part)
    assert "train has 2102 of 2103" in train
    assert "GOPR0380_11_00 lacks 1 of 60 frames (000150)" in train
    assert "no GOPR0862_11_00" in test
    assert "GOPR9999_11_00" in test
    # The two splits swapped, or renumbered, is as wrong as missing.
    swapped = whole_gopro()
    swapped["train"], swapped["test"] = swapped["test"], swapped["train"]
    assert len(splits.missing_gopro(swapped)) == 2
    more = whole_gopro()
    more["train"]["GOPR0380_11_00"].append("000999")
    assert "GOPR0380_11_00" in splits.missing_gopro(more)[0]


def test_missing_video_deblurring():
    videos = {"test": {name: ["0"] * 100 for name in splits.VIDEO_DEBLURRING_TEST}}
    lengths = [93] * 60 + [5708 - 60 * 93]
    videos["train"] = {f"V{n}": ["0"] * length for n, length in enumerate(lengths)}
    assert splits.missing_video_deblurring(videos) == []
    del videos["train"]["V3"]
    assert splits.missing_video_deblurring(videos) == ["train has 60 of 61 videos"]
    del videos["test"]["IMG_0039"]
    assert "IMG_0039" in splits.missing_video_deblurring(videos)[0]


@settings(max_examples=150, deadline=None)
@example(length=1280, size=512, stride=256, crop=256)
@example(length=720, size=512, stride=256, crop=256)
@example(length=20, size=64, stride=8, crop=20)
@given(
    length=st.integers(1, 300),
    size=st.integers(1, 120),
    stride=st.integers(1, 120),
    crop=st.integers(1, 130),
)
def test_tiles_cover_the_axis_and_hold_their_crops(length, size, stride, crop):
    stride = min(stride, size)
    tile = min(size, length)
    starts = tile_starts(length, size, stride)
    assert {p for s in starts for p in range(s, s + tile)} == set(range(length))
    possible = crop_starts(length, size, stride, crop).tolist()
    if crop > tile:
        assert possible == []
    elif crop <= size - stride + 1 or len(starts) == 1:
        assert possible == list(range(length - crop + 1))  # every crop of the axis
    for start in possible:
        number, within = tile_of(start, length, size, stride, crop)
        assert starts[number] + within == start
        assert 0 <= within <= tile - crop


@pytest.mark.parametrize("zipped", [False, True])
def test_prepare_keeps_every_pixel(tree, data_dir, tmp_path, zipped):
    import tensorflow_datasets as tfds

    source, pairs = tree
    if zipped:
        archive = tmp_path / "GOPRO_Large.zip"
        with zipfile.ZipFile(archive, "w") as file:
            for path in source.rglob("*.png"):
                file.write(path, path.relative_to(tmp_path))
            file.writestr("__MACOSX/GOPRO_Large/train/X/sharp/._000001.png", b"junk")
        source = archive
    run("gopro", "--source", source, "--data-dir", data_dir, *SMALL)

    frames = tfds.builder_from_directory(data_dir / "gopro/frames/1.0.0")
    assert "Nah" in frames.info.citation
    assert "CC BY" in frames.info.redistribution_info.license
    assert frames.info.homepage.startswith("https://")
    for split, count in (("train", 3), ("test", 1)):
        records = frames.as_data_source(split)
        assert len(records) == count
        for record in records:
            name = f"{record['sequence'].decode()}/{record['frame'].decode()}"
            np.testing.assert_array_equal(record["blurry"], pairs[name][0])
            np.testing.assert_array_equal(record["sharp"], pairs[name][1])

    named = tfds.builder("gopro", data_dir=data_dir, config="frames").as_data_source("train")
    np.testing.assert_array_equal(named[2]["sharp"], frames.as_data_source("train")[2]["sharp"])

    crops = tfds.builder_from_directory(data_dir / "gopro/crops_64x64_32/1.0.0")
    records = crops.as_data_source("train")
    assert list(crops.info.splits) == ["train"]
    assert len(records) == 3 * 2 * 3  # tops 0, 8; lefts 0, 32, 40
    for record in records:
        name = f"{record['sequence'].decode()}/{record['frame'].decode()}"
        place = tuple(slice(int(record[k]), int(record[k]) + 64) for k in ("top", "left"))
        for side, image in zip(("blurry", "sharp"), pairs[name]):
            np.testing.assert_array_equal(record[side], image[place])


def test_prepare_takes_the_gamma_side_and_skips_what_exists(tree, data_dir, capsys):
    import tensorflow_datasets as tfds

    args = ("gopro", "--source", tree[0], "--data-dir", data_dir, "--config", "frames", *SMALL)
    run(*args, "--blur", "blur_gamma")
    records = tfds.builder_from_directory(data_dir / "gopro/frames_gamma/1.0.0").as_data_source(
        "train"
    )
    name = f"{records[0]['sequence'].decode()}/{records[0]['frame'].decode()}"
    assert (records[0]["blurry"] != tree[1][name][0]).any()
    np.testing.assert_array_equal(records[0]["sharp"], tree[1][name][1])
    before = left_over(data_dir)
    run(*args, "--blur", "blur_gamma")
    assert "already prepared" in capsys.readouterr().out
    run(*args, "--blur", "blur_gamma", "--overwrite")
    assert left_over(data_dir) == before


def test_prepare_video_deblurring(tmp_path, data_dir):
    import tensorflow_datasets as tfds

    root = tmp_path / "DVD" / "quantitative_datasets"
    data_tree.video_tree(root, {"IMG_0030": 2, "IMG_0049": 1, "GOPR9633": 3})
    data_tree.video_tree(tmp_path / "DVD" / "qualitative_datasets", {"other": 1})
    small = ("--size", "16", "--stride", "8", "--allow-partial")
    run("video_deblurring", "--source", tmp_path / "DVD", "--data-dir", data_dir, *small)
    builder = tfds.builder_from_directory(data_dir / "video_deblurring/frames/1.0.0")
    assert {n: s.num_examples for n, s in builder.info.splits.items()} == {"train": 3, "test": 3}
    assert {r["sequence"] for r in builder.as_data_source("train")} == {b"GOPR9633"}


def test_the_whole_published_set_needs_no_flag(tmp_path, data_dir, capsys):
    """All 3214 names of GoPro, each frame the same few pixels."""
    data_tree.save(tmp_path / "x.png", data_tree.frame(0, 4, 6))
    pixels = (tmp_path / "x.png").read_bytes()
    archive = tmp_path / "GOPRO_Large.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for split, sequences in whole_gopro().items():
            for sequence, frames in sequences.items():
                for number in frames:
                    for side in ("blur", "sharp"):
                        file.writestr(f"GOPRO_Large/{split}/{sequence}/{side}/{number}.png", pixels)
    run("gopro", "--source", archive, "--data-dir", data_dir, "--config", "frames")
    printed = capsys.readouterr()
    assert "2103 train pairs, 1111 test pairs" in printed.out
    assert printed.err == ""
    metadata = json.loads((data_dir / "gopro/frames/1.0.0/metadata.json").read_text())
    assert metadata["missing"] == []


def refused(argv: list, data_dir: Path) -> str:
    """Runs prepare, expects one line and an untouched disk; returns the line."""
    before = left_over(data_dir.parent)
    with pytest.raises(UserError) as error:
        prepare.main([*map(str, argv), "--data-dir", str(data_dir), "--quiet"])
    assert left_over(data_dir.parent) == before
    assert "\n" not in str(error.value)
    return one_line(error.value)


def test_a_partial_tree_needs_the_flag(tree, data_dir):
    line = refused(["gopro", "--source", tree[0]], data_dir)
    assert "train has 3 of 2103 pairs" in line
    assert "lacks 97 of 100 frames" in line
    assert "--allow-partial" in line


def test_partial_set_says_so(tree, data_dir):
    run("gopro", "--source", tree[0], "--data-dir", data_dir, "--config", "frames", *SMALL)
    metadata = json.loads((data_dir / "gopro/frames/1.0.0/metadata.json").read_text())
    assert any("3 of 2103" in fault for fault in metadata["missing"])


def test_wrong_sources(tmp_path, data_dir):
    assert "no such folder" in refused(["gopro", "--source", tmp_path / "none"], data_dir)
    (tmp_path / "empty").mkdir()
    assert "no pairs found" in refused(["gopro", "--source", tmp_path / "empty"], data_dir)
    (tmp_path / "cut.zip").write_bytes(b"PK\x03\x04 cut short")
    assert "whole zip" in refused(["gopro", "--source", tmp_path / "cut.zip"], data_dir)


def test_two_files_for_one_side_are_refused(tree, data_dir):
    frame = next(tree[0].rglob("sharp/*.png"))
    shutil.copy(frame, frame.with_suffix(".jpg"))
    line = refused(["gopro", "--source", tree[0], *SMALL], data_dir)
    assert f"{frame.name}" in line
    assert "which is the sharp side of" in line


@pytest.mark.parametrize("zipped", [False, True])
def test_hostile_trees(tree, data_dir, tmp_path, zipped):
    source = tree[0]

    def attempt() -> str:
        where = source
        if zipped:
            where = tmp_path / "bad.zip"
            with zipfile.ZipFile(where, "w") as file:
                for path in source.rglob("*.png"):
                    file.write(path, path.relative_to(tmp_path))
        return refused(["gopro", "--source", where, *SMALL], data_dir)

    middle = source / "train/GOPR0372_07_00/sharp/000048.png"
    whole = middle.read_bytes()
    # Damaged pixels behind a sound header are found only by decoding.
    half = len(whole) // 2
    middle.write_bytes(whole[:half] + bytes([whole[half] ^ 255]) + whole[half + 1 :])
    assert "sharp/000048.png" in attempt()
    middle.write_bytes(whole[: len(whole) // 3])
    assert "sharp/000048.png" in attempt()
    middle.write_bytes(b"")
    assert "sharp/000048.png" in attempt()
    data_tree.save(middle, data_tree.frame(1, 72, 100))
    line = attempt()
    assert "000048.png is 104x72 but its sharp side 100x72" in line
    middle.unlink()
    line = attempt()
    assert "1 images lack their other side" in line
    assert "blur/000048.png" in line


def test_full_disk_is_said_before_and_while_writing(tree, data_dir, monkeypatch):
    argv = ["gopro", "--source", tree[0], *SMALL]
    usage = shutil.disk_usage
    monkeypatch.setattr("shutil.disk_usage", lambda p: usage(p)._replace(free=1000))
    line = refused(argv, data_dir)
    assert "needs" in line
    assert "are free" in line


@pytest.mark.parametrize("when", ["write", "close"])
def test_refused_writes_are_one_line(tree, data_dir, monkeypatch, when):
    from array_record.python import array_record_module

    class Refusing:
        def __init__(self, path, options):
            Path(path).write_bytes(b"half a file")

        def write(self, record):
            if when == "write":
                self.close()

        def close(self):
            raise RuntimeError("write() failed: No space left on device; writing /x; at byte 7")

    monkeypatch.setattr(array_record_module, "ArrayRecordWriter", Refusing)
    line = refused(["gopro", "--source", tree[0], *SMALL], data_dir)
    assert "No space left on device; nothing was kept" in line
    assert "at byte" not in line


def test_disk_that_fills_up_while_writing(tree, data_dir):
    """The kernel refuses the write itself: files of this process may not grow past 64 kB."""
    code = (
        "import resource, signal, sys;"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536));"
        "from dmphn_jax.errors import run_command; from tfds_gopro import prepare;"
        "sys.exit(run_command(prepare.main, sys.argv[1:]))"
    )
    argv = ["gopro", "--source", tree[0], "--data-dir", data_dir, "--config", "crops", *SMALL]
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, argv), "--quiet"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2, done.stderr
    assert "nothing was kept" in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not data_dir.exists()


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_interrupted_prepare_leaves_nothing(tree, data_dir, how):
    """Stopped in the middle of writing; what a killed run could not remove, the next one does."""
    code = (
        "import os, sys, time; from tfds_gopro import pair_builder, prepare;"
        "from dmphn_jax.errors import run_command;"
        "old = pair_builder.read_rgb;"
        "pair_builder.read_rgb = lambda *a: (os.write(1, b'decoding\\n'), time.sleep(0.5),"
        " old(*a))[2];"
        "sys.exit(run_command(prepare.main, sys.argv[1:]))"
    )
    argv = ["gopro", "--source", tree[0], "--data-dir", data_dir, "--config", "frames", *SMALL]
    command = [sys.executable, "-c", code, *map(str, argv), "--quiet"]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as job:
        for _ in range(3):
            assert "decoding" in job.stdout.readline()
        assert not (data_dir / "gopro/frames/1.0.0").exists()
        job.send_signal(how)
        _, errors = job.communicate(timeout=60)
    assert not (data_dir / "gopro/frames/1.0.0").exists()
    if how == signal.SIGTERM:
        assert job.returncode == 143
        assert errors == "dmphn: terminated\n"
        assert not data_dir.exists()
    else:
        assert list(data_dir.glob("gopro/frames/.1.0.0.*.replacing"))
    run(*argv)
    assert [path.name for path in (data_dir / "gopro/frames").iterdir()] == ["1.0.0"]


def test_an_overwrite_killed_amid_its_renames_puts_the_old_set_back(tree, data_dir, capsys):
    argv = ["gopro", "--source", tree[0], "--data-dir", data_dir, "--config", "frames", *SMALL]
    run(*argv)
    version = data_dir / "gopro/frames/1.0.0"
    before = {path.name: path.read_bytes() for path in version.iterdir()}
    scratch = version.with_name(".1.0.0.abcdefgh.replacing")
    (scratch / "new").mkdir(parents=True)
    (scratch / "lock").touch()
    version.rename(scratch / "old")  # as far as the killed run had come
    run(*argv)
    assert "already prepared" in capsys.readouterr().out
    assert {path.name: path.read_bytes() for path in version.iterdir()} == before
    assert [path.name for path in version.parent.iterdir()] == ["1.0.0"]


def test_a_run_still_at_work_is_not_taken_for_abandoned(tmp_path):
    target = tmp_path / "x" / "1.0.0"
    with writer.whole_or_nothing(target) as first:
        with writer.whole_or_nothing(target) as second:
            (second / "file").write_text("whole")
        assert first.exists()
    assert [path.name for path in (tmp_path / "x").iterdir()] == ["1.0.0"]


def test_unwritable_data_dir(tree, tmp_path):
    (tmp_path / "file").write_text("")
    line = refused(["gopro", "--source", tree[0], *SMALL], tmp_path / "file")
    assert "cannot write there" in line


def test_command_line_mistakes(tree, data_dir, capsys):
    assert "--stride" in refused(
        ["gopro", "--source", tree[0], "--size", "64", "--stride", "65"], data_dir
    )
    assert "blur_gamma" in refused(
        ["video_deblurring", "--source", tree[0], "--blur", "blur_gamma"], data_dir
    )
    with pytest.raises(SystemExit) as error:
        run_command(prepare.main, ["gopro", "--source", "x", "--size", "0x3"])
    assert error.value.code == 2
    assert "--size" in capsys.readouterr().err


def test_no_tensorflow_no_jax():
    """Preparing and reading must not import TensorFlow; help must not even import TFDS."""
    code = (
        "import sys; from tfds_gopro import prepare; prepare.parser();"
        "assert not {'tensorflow_datasets', 'jax', 'grain'} & set(sys.modules);"
        "import tempfile, pathlib; from tests.support import data_tree;"
        "root = pathlib.Path(tempfile.mkdtemp());"
        "data_tree.gopro_tree(root / 'G');"
        "prepare.main(['gopro', '--source', str(root / 'G'), '--data-dir', str(root / 'D'),"
        " '--allow-partial', '--size', '64', '--stride', '32', '--quiet']);"
        "from dmphn_jax.data import SourceOptions, open_source;"
        "from dmphn_jax.data.host_feed import HostFeed;"
        "options = SourceOptions(data_dir=root / 'D');"
        "source = open_source('gopro', options=options);"
        "feed = HostFeed(source, batch_size=2, crop_size=32); feed.next_local(); feed.close();"
        "feed = HostFeed(open_source('gopro', 'test', options), batch_size=1,"
        " crop_size=32); feed.next_local(); feed.close();"
        "assert 'tensorflow' not in sys.modules and 'torch' not in sys.modules;"
        "import shutil; shutil.rmtree(root); print('fine')"
    )
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )
    assert done.stdout.strip().endswith("fine"), done.stderr + str(time.monotonic() - started)


def test_zip_and_folder_find_the_same(tree, tmp_path):
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as file:
        for path in tree[0].rglob("*.png"):
            file.write(path, path.relative_to(tree[0]))
    folder = trees.find_gopro(trees.Tree(tree[0])).by_sequence()
    assert folder == trees.find_gopro(trees.Tree(tmp_path / "z.zip")).by_sequence()
    assert trees.find_gopro(trees.Tree(tree[0] / "train")).by_sequence() == {
        "train": folder["train"]
    }
