"""The host feed: order, crops, processes, restores, and what a user can get wrong."""

import hashlib
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dmphn_jax import data
from dmphn_jax.data import SourceOptions, base, make_feed, memory, open_source, tfds_source
from dmphn_jax.data.host_feed import HostFeed
from dmphn_jax.data.resident_feed import ResidentFeed
from dmphn_jax.errors import UserError
from tests.support import data_tree
from tfds_gopro.builders import Gopro, pair_config

ROOT = Path(__file__).resolve().parents[2]
CROP = 32


class Coded:
    """Frames whose pixels say which frame, row and column they are; sharp is blurry plus one."""

    def __init__(self, count: int, height: int = 40, width: int = 50):
        self.names = [f"s/{number:03d}" for number in range(count)]
        rows, columns = np.mgrid[:height, :width]
        self._plane = rows.astype(np.uint8), columns.astype(np.uint8)

    def __len__(self):
        return len(self.names)

    def __getitem__(self, index):
        rows, columns = self._plane
        blurry = np.stack([np.full_like(rows, index), rows, columns], -1)
        return base.Pair(blurry, blurry + np.uint8(1), self.names[index])


def host_feed(source, **options):
    options = {"batch_size": 4, "crop_size": CROP, "seed": 1, "threads": 1, **options}
    return HostFeed(source, **options)


def take(feed, batches):
    with_axis = [feed.next_local() for _ in range(batches)]
    return {side: np.concatenate([b[side] for b in with_axis]) for side in ("blurry", "sharp")}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    root = tmp_path_factory.mktemp("feed")
    pairs = data_tree.gopro_tree(root / "GOPRO_Large", train=5)
    for config in (pair_config(), pair_config("crops", size=(64, 64), stride=32)):
        builder = Gopro(
            data_dir=root / "D",
            config=config,
            source=root / "GOPRO_Large",
            allow_partial=True,
            progress=False,
        )
        builder.download_and_prepare()
    return root / "D", pairs


def test_prepare_to_batch_is_bit_exact(prepared):
    """Every crop of a batch is one window of its frame, the same on both sides."""
    data_dir, pairs = prepared
    source = open_source("gopro", options=SourceOptions(data_dir=data_dir))
    feed = host_feed(source, batch_size=3)
    batch = take(feed, 4)
    names = feed.names(0, 12)
    for place, name in enumerate(names):
        blurry, sharp = pairs[name]
        found = [
            (top, left)
            for top in range(blurry.shape[0] - CROP + 1)
            for left in range(blurry.shape[1] - CROP + 1)
            if (blurry[top, left] == batch["blurry"][place // 3, place % 3, 0, 0]).all()
            and (
                blurry[top : top + CROP, left : left + CROP]
                == batch["blurry"][place // 3, place % 3]
            ).all()
        ]
        assert found, name
        assert any(
            (sharp[t : t + CROP, x : x + CROP] == batch["sharp"][place // 3, place % 3]).all()
            for t, x in found
        )
    feed.close()


def test_tiles_and_whole_frames_give_the_same_batches(prepared):
    batches = []
    for options in ({}, {"records": "frames"}, {"views": False}):
        feed = host_feed(
            open_source("gopro", options=SourceOptions(data_dir=prepared[0], **options)),
            batch_size=3,
        )
        batches.append(take(feed, 5))
        feed.close()
    for other in batches[1:]:
        for side, array in batches[0].items():
            np.testing.assert_array_equal(array, other[side])


@pytest.mark.parametrize(("pairs", "batch_size"), [(12, 4), (13, 4), (3, 4), (7, 7), (1, 2)])
def test_every_epoch_visits_every_pair_once(pairs, batch_size):
    feed = host_feed(Coded(pairs), batch_size=batch_size)
    assert feed.steps_per_epoch == max(1, pairs // batch_size)
    steps = -(-3 * pairs // batch_size)
    seen = take(feed, steps)["blurry"][..., 0, 0, 0].ravel()
    orders = [tuple(seen[epoch * pairs : (epoch + 1) * pairs]) for epoch in range(3)]
    for order in orders:
        assert sorted(order) == list(range(pairs))
    if pairs > 6:
        assert len(set(orders)) == 3
    assert [int(name[2:]) for name in feed.names(0, len(seen))] == seen.tolist()
    feed.close()


def test_both_sides_are_cropped_alike_and_positions_are_uniform():
    source = Coded(2)
    feed = host_feed(source, batch_size=50)
    batch = take(feed, 60)
    np.testing.assert_array_equal(batch["blurry"] + np.uint8(1), batch["sharp"])
    tops, lefts = batch["blurry"][..., 0, 0, 1].ravel(), batch["blurry"][..., 0, 0, 2].ravel()
    # Each crop is a whole window: rows and columns count up from its corner.
    rows = tops.reshape(60, 50)[..., None, None] + np.arange(CROP)[:, None]
    np.testing.assert_array_equal(
        batch["blurry"][..., 1], np.broadcast_to(rows, (60, 50, CROP, CROP))
    )
    for values, count in ((tops, 40 - CROP + 1), (lefts, 50 - CROP + 1)):
        counts = Counter(values.tolist())
        assert set(counts) == set(range(count))
        expected = 3000 / count
        chi2 = sum((n - expected) ** 2 / expected for n in counts.values())
        assert chi2 < 3 * count  # the seed is fixed; a biased corner would be far above
    assert len(set(zip(tops.tolist(), lefts.tolist()))) > 150
    feed.close()


@settings(max_examples=25, deadline=None)
@given(
    pairs=st.integers(1, 9),
    height=st.integers(8, 40),
    width=st.integers(8, 40),
    crop=st.integers(1, 8),
    parts=st.sampled_from([1, 2, 3]),
    seed=st.integers(-(2**70), 2**70),
)
def test_any_frames_and_processes_keep_the_pairs_aligned(pairs, height, width, crop, parts, seed):
    source = Coded(pairs, height, width)
    options = {"batch_size": 6, "crop_size": crop, "seed": seed}
    feeds = [host_feed(source, shard=(part, parts), **options) for part in range(parts)]
    batches = [take(feed, 3) for feed in feeds]
    for feed in feeds:
        feed.close()
    blurry, sharp = (np.concatenate([b[side] for b in batches], 1) for side in ("blurry", "sharp"))
    np.testing.assert_array_equal(blurry + np.uint8(1), sharp)
    assert [int(n[2:]) for n in feeds[0].names(0, 18)] == blurry[..., 0, 0, 0].ravel().tolist()
    corner, end = blurry[..., 0, 0, 1:], blurry[..., -1, -1, 1:]
    np.testing.assert_array_equal(end - corner, np.full_like(corner, crop - 1))
    assert end[..., 0].max() < height
    assert end[..., 1].max() < width


def test_two_processes_read_disjoint_halves_of_the_same_batches():
    source = Coded(13)
    whole = host_feed(source)
    halves = [host_feed(source, shard=(which, 2)) for which in range(2)]
    one, parts = take(whole, 7), [take(half, 7) for half in halves]
    for side, array in one.items():
        joined = np.concatenate([part[side] for part in parts], axis=1)
        np.testing.assert_array_equal(array, joined)
    for feed in (whole, *halves):
        feed.close()


@pytest.mark.parametrize("threads", [1, 4])
def test_restore_gives_the_next_batch_to_the_bit(threads):
    source = Coded(11)
    first = host_feed(source, threads=threads, prefetch=32)
    take(first, 5)
    state = json.loads(json.dumps(first.state()))
    expected = take(first, 3)
    second = host_feed(source, threads=5 - threads, prefetch=1)
    second.restore(state)
    for side, array in take(second, 3).items():
        np.testing.assert_array_equal(array, expected[side])
    second.restore(state)  # backwards, after batches were read ahead
    assert second.state() == state
    for side, array in take(second, 3).items():
        np.testing.assert_array_equal(array, expected[side])
    for feed in (first, second):
        feed.close()


def test_next_of_n_batches_is_n_times_next():
    source = Coded(9)
    together, apart = host_feed(source), host_feed(source)
    batch = together.next(3)
    assert batch["blurry"].shape == (3, 4, CROP, CROP, 3)
    assert batch["blurry"].dtype == np.uint8
    for side, array in take(apart, 3).items():
        np.testing.assert_array_equal(np.asarray(batch[side]), array)
    assert together.state() == apart.state()
    blurry, sharp = together.crops(None, {side: array[1] for side, array in batch.items()})
    assert blurry.shape == sharp.shape == (4, CROP, CROP, 3)
    together.close()
    apart.close()


def test_seeds_differ():
    source = Coded(9)
    batches = []
    for seed in (1, 2, -1, 2**40):
        feed = host_feed(source, seed=seed)
        batches.append(take(feed, 2)["blurry"])
        feed.close()
    for k, one in enumerate(batches):
        for other in batches[k + 1 :]:
            assert (one != other).any()


def test_restore_refuses_what_would_not_continue():
    feed = host_feed(Coded(9))
    state = feed.state()
    with pytest.raises(UserError, match="batch_size was 4, now 3"):
        host_feed(Coded(9), batch_size=3).restore(state)
    with pytest.raises(UserError, match="pairs was 9, now 8"):
        host_feed(Coded(8)).restore(state)
    with pytest.raises(UserError, match="seed was 1, now 2"):
        host_feed(Coded(9), seed=2).restore(state)
    with pytest.raises(UserError, match="feed"):
        feed.restore({"feed": "resident", "step": 3})


def test_mistakes_are_one_line(tmp_path):
    with pytest.raises(UserError, match="no pairs"):
        host_feed(Coded(0))
    with pytest.raises(UserError, match="does not divide over 3"):
        host_feed(Coded(9), shard=(0, 3))
    for options, text in (
        ({"batch_size": 10**8}, "batch size 100000000: 1 to 1,000,000"),
        ({"batch_size": 0}, "batch size 0"),
        ({"threads": 10**9}, "1000000000 readers asked for; 1 to 1024"),
        ({"threads": -1}, "-1 readers"),
        ({"prefetch": -1}, "-1 pairs to be read ahead"),
        ({"prefetch": 10**12}, r"pairs of 32x32 in flight need .* GB of memory; .*prefetch"),
    ):
        with pytest.raises(UserError, match=text):
            host_feed(Coded(9), **options)
    feed = host_feed(Coded(9), crop_size=48)
    with pytest.raises(UserError, match="50x40, smaller than a crop of 48"):
        feed.next_local()
    feed.close()
    for side in ("blurry", "sharp"):
        for number in range(6):
            data_tree.save(tmp_path / side / f"{number}.png", data_tree.frame(number, 40, 50))
    with pytest.raises(UserError, match="smaller than a crop of 48"):
        host_feed(open_source(tmp_path), crop_size=48)
    path = tmp_path / "sharp/3.png"
    path.write_bytes(path.read_bytes()[:2000])
    feed = host_feed(open_source(tmp_path), threads=2)
    with pytest.raises(UserError, match=r"sharp/3\.png"):
        take(feed, 3)
    feed.close()
    with pytest.raises(UserError, match="did you mean 'resident'"):
        make_feed({"feed": "residnt"}, mesh=None, seed=0, batch_size=4, crop_size=CROP)


SMALL = {"seed": 1, "batch_size": 3, "crop_size": CROP}


def one_device():
    import jax

    return jax.make_mesh(
        (1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices("cpu")[:1]
    )


def test_make_feed_reads_the_config(prepared):
    from ml_collections import ConfigDict

    fields = {"source": "gopro", "data_dir": str(prepared[0]), "feed": "host", "threads": 2}
    feed = make_feed(ConfigDict(fields), mesh=one_device(), **SMALL)
    assert isinstance(feed, HostFeed)
    assert feed.threads == 2
    options = SourceOptions(data_dir=prepared[0])
    plain = host_feed(open_source("gopro", options=options), batch_size=3)
    batch, expected = feed.next(2), take(plain, 2)
    for side, array in batch.items():
        assert array.sharding.is_equivalent_to(feed._sharding, array.ndim)
        np.testing.assert_array_equal(np.asarray(array), expected[side])
    feed.close()
    plain.close()


def test_auto_takes_the_resident_feed_where_the_set_fits(prepared, monkeypatch):
    fields = {"source": "gopro", "data_dir": str(prepared[0]), "feed": "auto"}
    fields |= {"threads": 2, "prefetch": 2}
    feed = make_feed(fields, mesh=one_device(), **SMALL)
    assert isinstance(feed, ResidentFeed)
    feed.close()
    monkeypatch.setattr(memory, "host_free", lambda: 250_000)  # the set takes 224,640
    feed = make_feed(fields, mesh=one_device(), **SMALL)
    assert isinstance(feed, HostFeed)
    feed.close()


def test_the_resident_feed_reads_frames_and_the_host_feed_tiles(prepared, monkeypatch):
    """Overlapping tiles would be read more than twice over."""
    opened = []
    for kind in (tfds_source.CropsSource, tfds_source.FramesSource):
        monkeypatch.setattr(
            kind,
            "__getitem__",
            lambda self, i, get=kind.__getitem__: opened.append(self) or get(self, i),
        )
    batches = []
    for records in ("", "crops_64x64_32"):
        fields = {"source": "gopro", "data_dir": str(prepared[0]), "feed": "resident"}
        feed = make_feed(fields | {"records": records}, mesh=one_device(), **SMALL)
        batches.append(np.asarray(feed.crops(feed.resident, feed.next()[0])[0]))
        feed.close()
    kinds = [type(source) for source in opened]
    assert kinds == [tfds_source.FramesSource] * 5 + [tfds_source.CropsSource] * 5
    np.testing.assert_array_equal(*batches)
    # Where only tiles are prepared they serve; where only frames are, the host feed reads those.
    alone = prepared[0].parent / "alone"
    for config, feed_kind in (("crops_64x64_32", "resident"), ("frames", "host")):
        shutil.copytree(prepared[0] / "gopro" / config, alone / feed_kind / "gopro" / config)
        fields = {"source": "gopro", "data_dir": str(alone / feed_kind), "feed": feed_kind}
        feed = make_feed(fields, mesh=one_device(), **SMALL)
        feed.next()
        feed.close()


def test_what_the_resident_feed_needs_is_its_frames_not_the_tiles(prepared, monkeypatch):
    monkeypatch.setattr(memory, "host_free", lambda: 1000)
    fields = {"source": "gopro", "data_dir": str(prepared[0]), "feed": "resident"}
    need = memory.gigabytes(5 * 2 * 3 * data_tree.HEIGHT * data_tree.WIDTH)
    with pytest.raises(UserError, match=f"5 pairs of 104x72 need {need}"):
        make_feed(fields, mesh=one_device(), **SMALL)


class Meeting(Coded):
    """The first `readers` reads wait for one another; further ones do not."""

    def __init__(self, readers: int):
        super().__init__(7)
        self.barrier, self.reads = threading.Barrier(readers), itertools.count()

    def __getitem__(self, index):
        if next(self.reads) < self.barrier.parties:
            self.barrier.wait(timeout=60)
        return super().__getitem__(index)


@pytest.mark.parametrize("batch_size", [1, 6, 32, 128])
@pytest.mark.parametrize("prefetch", [None, 1])
def test_as_many_readers_as_asked_for_at_any_batch_size(batch_size, prefetch):
    source = Meeting(16)
    feed = host_feed(source, batch_size=batch_size, threads=16, prefetch=prefetch)
    feed.next_local()  # a broken barrier would raise
    assert not source.barrier.broken
    feed.close()


@pytest.mark.parametrize("batch_size", [6, 64])
def test_no_more_is_read_ahead_than_said(batch_size):
    source = Meeting(1)
    feed = host_feed(source, batch_size=batch_size, threads=3, prefetch=24)
    for taken in range(1, 4):
        feed.next_local()
        # Of the pairs ahead each reader may have begun a piece more.
        begun = source.reads.__reduce__()[1][0]
        assert begun <= taken * batch_size + 24 + batch_size
    feed.close()


@pytest.mark.parametrize(
    ("batch_size", "threads", "prefetch"), [(1, 5, 7), (6, 2, None), (70, 3, 9)]
)
def test_batches_do_not_depend_on_how_they_are_cut_into_pieces(batch_size, threads, prefetch):
    plain = host_feed(Coded(11), batch_size=batch_size, threads=1, prefetch=10_000)
    cut = host_feed(Coded(11), batch_size=batch_size, threads=threads, prefetch=prefetch)
    one, other = take(plain, 5), take(cut, 5)
    for side, array in one.items():
        np.testing.assert_array_equal(array, other[side])
    # A batch in hand is not written to again.
    kept = cut.next_local()
    copy = {side: array.copy() for side, array in kept.items()}
    take(cut, 8)
    for side, array in kept.items():
        np.testing.assert_array_equal(array, copy[side])
    for feed in (plain, cut):
        feed.close()


def test_batches_are_those_of_earlier_versions():
    """Runs that were begun with an earlier version go on with the same batches."""
    feed = host_feed(Coded(13), batch_size=6, threads=3)
    feed.restore(
        {"feed": "host", "step": 4, "seed": 1, "pairs": 13, "batch_size": 6, "crop_size": CROP}
    )
    digest = hashlib.sha256()
    for _ in range(5):
        batch = feed.next_local()
        digest.update(batch["blurry"].tobytes() + batch["sharp"].tobytes())
    assert digest.hexdigest()[:16] == "139f43146ea9f5cb"
    feed.close()


def test_a_feed_goes_on_after_a_file_that_could_not_be_read():
    class Flaky(Coded):
        broken = True

        def __getitem__(self, index):
            if self.broken and index == 5:
                raise UserError("s/005: damaged")
            return super().__getitem__(index)

    source = Flaky(9)
    feed, plain = host_feed(source, threads=3), host_feed(Coded(9))
    with pytest.raises(UserError, match="s/005: damaged"):
        take(feed, 3)
    step = feed.state()["step"]
    source.broken = False
    take(plain, step)
    expected, after = take(plain, 3), take(feed, 3)
    for side, array in expected.items():
        np.testing.assert_array_equal(array, after[side])
    for each in (feed, plain):
        each.close()


def test_a_record_damaged_after_preparation_is_one_line(prepared, tmp_path):
    """A PNG's byte flipped on disk: both feeds name the frame."""
    copy = tmp_path / "D/gopro/frames"
    shutil.copytree(prepared[0] / "gopro/frames", copy)
    path = next(copy.glob("*/*train.array_record*"))
    content = bytearray(path.read_bytes())
    place = content.index(b"IDAT") + 2000
    content[place : place + 8] = bytes(8)
    path.write_bytes(content)
    fields = {"source": "gopro", "data_dir": str(tmp_path / "D")}

    def read(kind):
        make_feed(fields | {"feed": kind}, mesh=one_device(), **SMALL).next(2)

    for kind in ("host", "resident"):
        with pytest.raises(UserError, match=r"frames.*train frame GOPR0372_07_00/\d+: ") as error:
            read(kind)
        assert "\n" not in str(error.value)


def printed_cells(capsys) -> list[list[str]]:
    """The rows of the tables printed since the last look."""
    lines = capsys.readouterr().out.splitlines()
    return [[cell.strip() for cell in line.strip("| ").split("|")] for line in lines]


def test_benchmark_runs_what_training_runs(tmp_path, capsys, monkeypatch):
    from dmphn_jax.commands import benchmark_data as benchmark

    feeds = []
    monkeypatch.setattr(benchmark, "keep_freed_memory", lambda: None)  # for the process's life
    monkeypatch.setattr(
        data,
        "make_feed",
        lambda *args, **options: feeds.append(make_feed(*args, **options)) or feeds[-1],
    )
    args = ["--frames", "1", "--seconds", "0.1", "--json", str(tmp_path / "b.json")]
    assert benchmark.main([*args, "--feeds", "raw", "--batch-size", "2", "3"]) == 0
    assert ["raw tiles, host", "3"] in [cells[:2] for cells in printed_cells(capsys)]
    figures = json.loads((tmp_path / "b.json").read_text())["feeds"]
    assert [row["batch_size"] for row in figures] == [2, 3]
    default = host_feed(Coded(3), threads=None)
    for row, used in zip(figures, feeds, strict=True):
        assert row["pairs_per_second_per_core"] > 0
        assert row["pairs"] % row["batch_size"] == 0
        assert (used.threads, used.prefetch) == (default.threads, default.prefetch)
        assert row["threads"] == default.threads
    args += ["--feeds", "png", "--batch-size", "1", "--threads", "1", "--prefetch", "1"]
    assert benchmark.main(args) == 0
    assert ["PNG frames, host", "1", "1"] in [cells[:3] for cells in printed_cells(capsys)]
    for flags in (["--threads", "-1"], ["--batch-size", "6", "0"], ["--seconds", "nan"]):
        with pytest.raises(UserError, match=flags[0]):
            benchmark.main(flags)


def test_benchmark_on_eight_devices():
    argv = ["--devices", "8", "--feeds", "raw", "--batch-size", "6", "--frames", "1"]
    done = subprocess.run(
        [sys.executable, "-m", "dmphn_jax", "benchmark-data", *argv, "--seconds", "0.1"],
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert "8 devices" in done.stdout
    assert re.search(
        r"\| raw tiles, host \| +8 \|", done.stdout
    )  # the next batch that eight can share


WORKER = """
import sys, numpy as np, jax
process, port, out = int(sys.argv[1]), sys.argv[2], sys.argv[3]
jax.config.update("jax_num_cpu_devices", 2)
jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=2, process_id=process)
from tests.data.test_host_feed import Coded, host_feed
# The devices in an order that does not follow the processes.
devices = np.array(jax.devices())[[0, 2, 1, 3]]
mesh = jax.sharding.Mesh(devices, ("data",))
feed = host_feed(Coded(13), mesh=mesh, batch_size=8)
read = feed._rows
batch = feed.next(2)["blurry"]
everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
whole = jax.jit(lambda x: x, out_shardings=everywhere)(batch)
np.savez(f"{out}/{process}.npz", whole=np.asarray(whole.addressable_data(0)), read=read)
feed.close()
jax.distributed.shutdown()
"""


def test_global_batches_of_two_real_processes(tmp_path):
    """Two processes of two devices each hold the batches that one process makes."""
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    jobs = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(process), port, str(tmp_path)],
            cwd=ROOT,
            env={**os.environ, "JAX_PLATFORMS": "cpu"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for process in range(2)
    ]
    for job in jobs:
        _, errors = job.communicate(timeout=240)
        assert job.returncode == 0, errors[-2000:]
    results = [np.load(tmp_path / f"{process}.npz") for process in range(2)]
    one = host_feed(Coded(13), batch_size=8)
    expected = take(one, 2)["blurry"]
    one.close()
    for result in results:
        np.testing.assert_array_equal(result["whole"], expected)
    read = [set(result["read"].tolist()) for result in results]
    assert not read[0] & read[1]
    assert read[0] | read[1] == set(range(8))
