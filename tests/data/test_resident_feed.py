"""The resident feed, in a process of its own with 8 virtual CPU devices."""

import json
import os
import socket
import subprocess
import sys
from collections import Counter
from itertools import chain
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import Mesh

from dmphn_jax.data.base import Feed, Pair
from dmphn_jax.data.deal import Deal
from dmphn_jax.data.memory import check_fits
from dmphn_jax.data.resident_feed import ResidentFeed
from dmphn_jax.errors import UserError

H, W, CROP = 12, 16, 5


class Source:
    """Random frames; pair i's pixels are its own, so a crop tells where it was cut."""

    def __init__(self, count, sizes=None):
        self.sizes = sizes or [(H, W)] * count
        self.names = [f"scene/{i:06d}" for i in range(count)]

    def __len__(self):
        return len(self.names)

    def __getitem__(self, i):
        rng = np.random.default_rng(i)
        both = rng.integers(0, 256, (2, *self.sizes[i], 3), np.uint8)
        return Pair(both[0], both[1], self.names[i])


def mesh_of(devices):
    return Mesh(np.array(jax.devices()[:devices]), ("data",))


def make(count=24, batch_size=8, devices=1, source=None, **options):
    source = source or Source(count)
    options = {"seed": 7, "crop_size": CROP, "progress": False} | options
    return ResidentFeed(source, mesh=mesh_of(devices), batch_size=batch_size, **options)


def find(crop, sources):
    """The pair of `sources` (sliding windows by pair) that holds `crop`, with its place."""
    for i, windows in enumerate(sources):
        same = np.argwhere((windows == crop).all(axis=(2, 3, 4)))
        if len(same):
            return (i, *same[0])
    return None


def windows(image):
    view = np.lib.stride_tricks.sliding_window_view(image, (CROP, CROP, 3))
    return view[:, :, 0]


def check_crops_are_slices(devices, batch_size, count, sizes=None):
    source = Source(count, sizes)
    feed = make(batch_size=batch_size, devices=devices, source=source)
    cut = jax.jit(feed.crops)
    blurry_windows = [windows(source[i].blurry) for i in range(count)]
    seen = Counter()
    for batch in feed.next(count):  # `count` steps: `batch_size` epochs
        blurry, sharp = cut(feed.resident, batch)
        assert blurry.shape == (batch_size, CROP, CROP, 3)
        assert blurry.dtype == np.uint8
        for b, s in zip(np.asarray(blurry), np.asarray(sharp)):
            i, top, left = find(b, blurry_windows)
            np.testing.assert_array_equal(s, source[i].sharp[top : top + CROP, left : left + CROP])
            seen[i] += 1
    assert seen == dict.fromkeys(range(count), batch_size)


def check_scan_equals_one_by_one(devices, batch_size):
    one, many = (make(20, batch_size, devices) for _ in range(2))

    @jax.jit
    def scanned(resident, batches):
        def body(total, batch):
            return total + 1, many.crops(resident, batch)

        return jax.lax.scan(body, 0, batches)[1]

    got = scanned(many.resident, many.next(3))
    cut = jax.jit(one.crops)
    for step in range(3):
        expected = cut(one.resident, one.next()[0])
        for a, b in zip(expected, got):
            np.testing.assert_array_equal(a, b[step])


def batches_digest(devices, steps=6):
    feed = make(21, 8, devices, threads=devices)
    cut = jax.jit(feed.crops)
    sums = [np.asarray(cut(feed.resident, b)[0], np.int64).sum((1, 2, 3)) for b in feed.next(steps)]
    return np.stack(sums).tolist()


def eight_devices():
    """Runs in the process with 8 devices."""
    assert len(jax.devices()) == 8
    check_crops_are_slices(8, 8, 13)
    check_crops_are_slices(4, 8, 6)  # fewer pairs than places in a batch
    check_scan_equals_one_by_one(8, 16)
    feed = make(24, 8, 8)
    for side in feed.resident.values():
        assert [s.data.shape[0] for s in side.addressable_shards] == [3] * 8
    text = jax.jit(feed.crops).lower(feed.resident, feed.next()[0]).compile().as_text()
    assert "all-gather" not in text
    assert "all-reduce" not in text
    # Replicated over a second axis of the mesh
    mesh = Mesh(np.array(jax.devices()).reshape(4, 2), ("data", "model"))
    both = ResidentFeed(Source(9), mesh=mesh, seed=7, batch_size=4, crop_size=CROP, progress=False)
    plain = make(9, 4, 1)
    np.testing.assert_array_equal(
        jax.jit(both.crops)(both.resident, both.next()[0])[1],
        jax.jit(plain.crops)(plain.resident, plain.next()[0])[1],
    )
    print(json.dumps(batches_digest(8)))


def test_eight_devices_and_one_feed_the_same():
    process = start("eight_devices()", 8)
    out, error = process.communicate(timeout=300)
    assert process.returncode == 0, error
    assert json.loads(out.splitlines()[-1]) == batches_digest(1)


def one_of_two_processes(port, process):
    """Runs in each of two processes with 4 devices each: prints its rows of every batch."""
    jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=2, process_id=process)
    try:
        source, read = Source(21), []
        real = Source.__getitem__
        source.shape = lambda i: (H, W)
        Source.__getitem__ = lambda self, i: read.append(i) or real(self, i)
        feed = ResidentFeed(
            source, mesh=mesh_of(8), seed=7, batch_size=8, crop_size=CROP, progress=False
        )
        # Its own half; neighbouring devices may share a pair.
        assert len(set(read)) <= 12
        assert len(read) <= 16
        total = jax.jit(
            lambda resident, batches: jax.lax.map(
                lambda b: feed.crops(resident, b)[0].astype(np.int32).sum((1, 2, 3)), batches
            ),
        )
        sums = total(feed.resident, feed.next(6))
        rows = {
            place.index[1].start: np.asarray(place.data)[:, 0].tolist()
            for place in sums.addressable_shards
        }
        print(json.dumps(rows))
    finally:
        jax.distributed.shutdown()


def test_two_processes_hold_their_shares_and_feed_the_same():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running = [start(f"one_of_two_processes({port}, {process})", 4) for process in range(2)]
    rows = {}
    for process in running:
        out, error = process.communicate(timeout=300)
        assert process.returncode == 0, error
        rows |= {int(row): sums for row, sums in json.loads(out.splitlines()[-1]).items()}
    assert np.array([rows[row] for row in range(8)]).T.tolist() == batches_digest(1)


def start(call, devices):
    """Starts a Python process with `devices` CPU devices that runs a function of this module."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    return subprocess.Popen(
        [sys.executable, "-c", f"from tests.data.test_resident_feed import *; {call}"],
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(("batch_size", "count"), [(4, 12), (4, 9)])
def test_crops_are_slices_and_epochs_cover_the_set(batch_size, count):
    check_crops_are_slices(1, batch_size, count)


def test_smaller_frames_are_never_cropped_beyond_their_edge():
    sizes = [(H, W), (CROP, CROP), (H, CROP + 1), (7, W), (W, H)]
    check_crops_are_slices(1, 5, 5, sizes)


def test_crops_reach_every_place():
    feed = make(1, 8)
    places = np.asarray(feed.next(100))[..., 1:].reshape(-1, 2)
    assert set(places[:, 0]) == set(range(H - CROP + 1))
    assert set(places[:, 1]) == set(range(W - CROP + 1))


def test_several_batches_per_call_equal_one_by_one():
    check_scan_equals_one_by_one(1, 4)


def test_feeding_transfers_nothing_unasked():
    feed = make(10, 4)
    cut = jax.jit(lambda resident, batches: feed.crops(resident, batches[0]))
    cut(feed.resident, feed.next())
    with jax.transfer_guard("disallow"):
        cut(feed.resident, feed.next())


def test_restore_is_exact():
    feed, other = make(10, 4), make(10, 4)
    feed.next(5)
    state = json.loads(json.dumps(feed.state()))
    other.restore(state)
    np.testing.assert_array_equal(feed.next(4), other.next(4))
    assert feed.state() == other.state()
    assert isinstance(feed, Feed)


def test_restoring_anothers_position_is_refused():
    state = make(10, 4).state()
    with pytest.raises(UserError, match="batch_size was 4, now 8"):
        make(10, 8).restore(state)
    with pytest.raises(UserError, match="pairs was 10, now 11"):
        make(11, 4).restore(state)
    with pytest.raises(UserError, match="feed='host', not 'resident'"):
        make(10, 4).restore(state | {"feed": "host"})


def test_seeds_differ():
    assert not np.array_equal(make(seed=1).next(3), make(seed=2).next(3))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 60), st.integers(1, 24), st.integers(0, 9))
def test_every_epoch_deals_every_pair_once(pairs, batch_size, seed):
    deal = Deal(pairs, batch_size, seed)
    steps = deal.cycle * pairs // batch_size
    taken = [[deal.take(s, p) for p in range(batch_size)] for s in range(2 * steps)]
    first, second = taken[:steps], taken[steps:]
    assert Counter(chain(*first)) == dict.fromkeys(range(pairs), deal.cycle)
    assert Counter(chain(*second)) == dict.fromkeys(range(pairs), deal.cycle)
    # Nobody runs ahead: at any time the pairs have been taken about equally often.
    counts = np.zeros(pairs, int)
    for batch in taken:
        np.add.at(counts, batch, 1)
        assert np.ptp(counts) <= 3
    # A device that holds its places' share holds whatever they take.
    for devices in (d for d in range(1, batch_size + 1) if batch_size % d == 0):
        shares = [deal.share(d, devices) for d in range(devices)]
        assert max(map(len, shares)) <= -(-pairs // devices) + 1
        for batch in first:
            for place, row in enumerate(batch):
                assert row in shares[place * devices // batch_size]


def test_divisible_epochs_line_up_with_steps():
    deal = Deal(24, 8, 0)
    for epoch in range(3):
        taken = [deal.take(epoch * 3 + s, p) for s in range(3) for p in range(8)]
        assert sorted(taken) == list(range(24))


def test_what_does_not_fit_is_said_before_loading():
    class Counting(Source):
        reads = 0

        def __getitem__(self, i):
            Counting.reads += 1
            return super().__getitem__(i)

    with pytest.raises(UserError, match=r"100 pairs of 16x12 need 115\.2 kB .* 100\.0 kB; use"):
        make(source=Counting(100), memory_limit=100_000)
    assert Counting.reads <= 8
    make(source=Counting(100), memory_limit=115_200)


def test_fits_tells_without_reading_where_sizes_are_known():
    class Known(Source):
        def shape(self, i):
            return self.sizes[i]

        def __getitem__(self, i):
            raise AssertionError("nothing is to be read")

    source = Known(3, [(H, W), (H, 20), (14, W)])
    need = 3 * 14 * 20 * 3 * 2
    options = {"mesh": mesh_of(1), "batch_size": 2}
    assert ResidentFeed.fits(source, memory_limit=need, **options)
    assert not ResidentFeed.fits(source, memory_limit=need - 1, **options)
    with pytest.raises(UserError, match="'data'"):
        ResidentFeed.fits(source, mesh=Mesh(jax.devices()[:1], ("x",)), batch_size=1)


def test_memory_of_devices():
    class Device:
        platform = "gpu"

        def memory_stats(self):
            return {"bytes_limit": 1000, "bytes_in_use": 400}

    options = {"share": 0.5, "limit": None, "what": "frames", "way_out": "go"}
    check_fits(300, [Device()] * 2, **options)
    with pytest.raises(UserError, match="frames need 301 B on each device; 50% of the 600 B free"):
        check_fits(301, [Device()] * 2, **options)
    with pytest.raises(UserError, match=r"frames need .* of memory"):
        check_fits(1 << 60, jax.devices("cpu"), **options)


def test_mistakes_are_one_line():
    with pytest.raises(UserError, match="no pairs"):
        make(0)
    with pytest.raises(UserError, match=r"scene/000003 is 16x4, smaller than a crop of 5x5"):
        make(source=Source(10, [(H, W)] * 3 + [(4, W)] + [(H, W)] * 6))
    with pytest.raises(UserError, match=r"scene/000005: 17x12 is larger than the 16x12"):
        make(source=Source(30, [(H, W)] * 5 + [(H, W + 1)] + [(H, W)] * 24))
    with pytest.raises(UserError, match="'data'"):
        ResidentFeed(
            Source(3), mesh=Mesh(jax.devices()[:1], ("x",)), seed=0, batch_size=1, crop_size=CROP
        )

    class Broken(Source):
        def __getitem__(self, i):
            if i == 6:
                raise UserError("scene/000006.png: not an image")
            return super().__getitem__(i)

    with pytest.raises(UserError, match=r"000006\.png: not an image"):
        make(source=Broken(17))
