"""Decoding, computing and encoding at once: failures are lines, memory is bounded."""

import os
import threading
import types
from concurrent.futures import ThreadPoolExecutor

import PIL.Image
import pytest

from dmphn_jax.errors import UserError
from dmphn_jax.inference import pipeline
from dmphn_jax.inference.jobs import Job
from tests.support.deblur import jobs_of, submitting
from tests.support.pictures import SHAPE, negative_of, noise, pixels, tree


def test_out_of_memory_is_a_line_and_the_rest_goes_on(tmp_path):
    jobs = jobs_of(tmp_path / "in", tmp_path / "out", 4)
    errors = iter([MemoryError(), RuntimeError("RESOURCE_EXHAUSTED: Out of memory"), KeyError("k")])

    def network(image):
        error = next(errors, None)
        if error:
            raise error
        return image

    failures = [
        r.failure for r in pipeline.run_jobs(jobs, submitting(network), workers=1) if r.failure
    ]
    assert sum("too large for memory (20x16)" in failure for failure in failures) == 2
    assert sum("KeyError" in failure for failure in failures) == 1
    assert len(tree(tmp_path / "out")) == 1


def test_pictures_in_flight_are_bounded(tmp_path, monkeypatch):
    jobs = jobs_of(tmp_path / "in", tmp_path / "out", 24)
    held, most, lock = 0, 0, threading.Lock()
    read, write = pipeline.read_image, pipeline.write

    def counted_read(*args, **kwargs):
        nonlocal held, most
        with lock:
            held += 1
            most = max(most, held)
        return read(*args, **kwargs)

    def counted_write(*args, **kwargs):
        nonlocal held
        result = write(*args, **kwargs)
        with lock:
            held -= 1
        return result

    monkeypatch.setattr(pipeline, "read_image", counted_read)
    monkeypatch.setattr(pipeline, "write", counted_write)
    one = SHAPE[0] * SHAPE[1]
    results = list(pipeline.run_jobs(jobs, submitting(lambda x: x), workers=4, in_flight=3 * one))
    assert [r.failure for r in results] == [None] * 24
    assert 1 <= most <= 3
    # Even a picture above the bound is done, alone.
    most, out = 0, tmp_path / "alone"
    jobs = [Job(job.source, str(out / os.path.basename(job.output))) for job in jobs[:5]]
    assert len(list(pipeline.run_jobs(jobs, submitting(lambda x: x), workers=4, in_flight=1))) == 5
    assert most == 1


def test_results_keep_the_notes_of_reading(tmp_path):
    picture = PIL.Image.fromarray(noise(*SHAPE, 3))
    picture.save(tmp_path / "x.jpg", "MPO", save_all=True, append_images=[picture])
    job = Job(str(tmp_path / "x.jpg"), str(tmp_path / "y.jpg"))
    (result,) = pipeline.run_jobs([job], submitting(lambda x: x))
    assert result.failure is None
    assert len(result.notes) == 1


def test_the_next_image_is_submitted_before_the_last_ones_result_is_taken(tmp_path):
    """So the device computes while a result is copied; never are more than two with it."""
    jobs = jobs_of(tmp_path / "in", tmp_path / "out", 6)
    events = []
    decoded = threading.Semaphore(0)

    class Pool(ThreadPoolExecutor):
        def submit(self, function, *args):
            future = super().submit(function, *args)
            if function.__name__ == "_decode":
                future.add_done_callback(lambda _: decoded.release())
            return future

    class OnDevice:
        def __init__(self, images):
            self.images = images
            events.append("submit")

        def result(self):
            events.append("result")
            return 255 - self.images

    def submit(images):
        if not events:  # from now on nothing waits for decoding
            for _ in jobs:
                assert decoded.acquire(timeout=60)
        return OnDevice(images)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "ThreadPoolExecutor", Pool)
        results = list(pipeline.run_jobs(jobs, submit, workers=6))
    assert [r.failure for r in results] == [None] * 6
    assert events == ["submit", "submit", *["result", "submit"] * 4, "result", "result"]
    assert all(negative_of(job.output, job.source) for job in jobs)


def test_each_image_gets_its_own_failure(tmp_path):
    jobs = jobs_of(tmp_path / "in", tmp_path / "out", 6)

    def submit(images):
        mean = images.mean()
        if mean in means[:2]:
            raise RuntimeError("at submission")

        def result():
            if mean in means[2:4]:
                raise UserError("in the result")
            return images

        return types.SimpleNamespace(result=result)

    means = [pixels(job.source).mean() for job in jobs]
    results = {r.job.source: r.failure for r in pipeline.run_jobs(jobs, submit)}
    for index, job in enumerate(jobs):
        expected = ["RuntimeError: at submission"] * 2 + ["in the result"] * 2 + [None] * 2
        line = expected[index] and f"{job.source}: {expected[index]}"
        assert results[job.source] == line
    assert tree(tmp_path / "out") == ["04.png", "05.png"]
