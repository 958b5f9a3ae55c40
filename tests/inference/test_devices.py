"""Eight devices: of a virtual CPU each, in processes of their own."""

import subprocess
import sys

_PREAMBLE = """
import jax
jax.config.update("jax_num_cpu_devices", 8)
import numpy as np
import dmphn_jax
from dmphn_jax.inference import programs, tiles
from dmphn_jax.models import ModelConfig
from tests.support.networks import random_params
assert jax.device_count() == 8
def noise(*shape):
    return np.random.default_rng(0).integers(0, 65536, shape, np.uint16)
"""


def on_eight_devices(script):
    subprocess.run([sys.executable, "-c", _PREAMBLE + script], check=True, timeout=500)


def test_one_image_is_split_by_rows():
    on_eight_devices("""
config = ModelConfig(hierarchy="1-4", width=2)
params = random_params(config)
alone = dmphn_jax.Deblurrer(params=params, config=config, devices=jax.devices()[:1])
split = dmphn_jax.Deblurrer(params=params, config=config, split_rows=True)
for image in (noise(256, 64, 3), noise(100, 30, 3)):  # 104 rows: not all devices have as many
    whole = alone(image).astype(int)
    assert whole.std() > 1000
    assert np.abs(split(image) - whole).max() <= 1
program, *arguments = split._program_for(noise(1, 256, 64, 3), None)
compiled = program.lower(*arguments).compile()
text = compiled.as_text()
assert "collective-permute(" in text  # rows go from neighbour to neighbour
assert "all-gather(" not in text and "all-to-all(" not in text
one = alone.programs.quantised.lower(*alone.place(noise(1, 256, 64, 3))).compile()
parts = [c.memory_analysis().temp_size_in_bytes for c in (compiled, one)]
assert parts[0] < parts[1] / 2, parts
""")


def test_images_and_tiles_go_to_all_devices(tmp_path):
    on_eight_devices(f"""
from pathlib import Path
from dmphn_jax.inference.computing import PER_DEVICE
from dmphn_jax.inference.pipeline import run_jobs
from tests.support.deblur import jobs_of
from tests.support.pictures import pixels
config = ModelConfig(hierarchy="1", width=1)
params = random_params(config)
alone = dmphn_jax.Deblurrer(params=params, config=config, devices=jax.devices()[:1])
every = dmphn_jax.Deblurrer(params=params, config=config)
jobs = jobs_of(Path({str(tmp_path)!r}) / "in", Path({str(tmp_path)!r}) / "out", 20)
under_way, most, used = 0, 0, set()
class Counted:
    def __init__(self, images):
        global under_way, most
        self.pending = every.submit(images)
        used.update(self.pending.padded.devices())
        under_way += 1
        most = max(most, under_way)
    def result(self):
        global under_way
        under_way -= 1
        return self.pending.result()
results = list(run_jobs(jobs, Counted, workers=16, submitted=PER_DEVICE * 8))
assert [r.failure for r in results] == [None] * 20
assert used == set(jax.devices())
assert 8 <= most <= 16, most
for job in jobs:
    np.testing.assert_array_equal(pixels(job.output), alone(pixels(job.source)))
large = noise(300, 96, 3)
tiled = dmphn_jax.Deblurrer(params=params, config=config, tile=64, overlap=32)
pending = tiled.submit(large[None])
assert pending.layout.tiles > 8 and pending.devices == tuple(jax.devices())
one_device = dmphn_jax.Deblurrer(
    params=params, config=config, tile=64, overlap=32, devices=jax.devices()[:1])
np.testing.assert_array_equal(pending.result()[0], one_device(large))
""")


def test_frames_of_a_film_go_to_all_devices(tmp_path):
    """Batches of eight frames a device, the last of them filled up; pictures, so without FFmpeg."""
    on_eight_devices(f"""
from pathlib import Path
from dmphn_jax.inference.films import FilmOptions, run_films
from dmphn_jax.inference.jobs import Job
from tests.support.films import no_bar
from tests.support.pictures import pixels, saved
folder = Path({str(tmp_path)!r})
config = ModelConfig(hierarchy="2", width=1)
params = random_params(config)
(folder / "in").mkdir()
for number, frame in enumerate(noise(70, 22, 16, 3)):
    saved(folder / "in" / f"{{number}}.png", (frame // 257).astype(np.uint8))
used, batches = set(), []
def frames(name, deblurrer):
    def submit(images):
        pending = deblurrer.submit(images)
        used.update(pending.padded.devices())
        batches.append(len(images))
        return pending
    job = Job(str(folder / "in"), str(folder / name), film=True, frames=".png")
    count = len(deblurrer.devices)
    (result,) = run_films(
        [job], submit, FilmOptions(), model={{}}, devices=count, progress=no_bar)
    assert result.failure is None, result.failure
    return [pixels(folder / name / f"{{number:06}}.png") for number in range(70)]
every = frames("every", dmphn_jax.Deblurrer(params=params, config=config))
assert used == set(jax.devices()) and batches == [64, 64]
alone = dmphn_jax.Deblurrer(params=params, config=config, devices=jax.devices()[:1])
one = frames("one", alone)
assert batches[2:] == [8] * 9
np.testing.assert_array_equal(every, one)
assert np.std(one) > 5 and len({{frame.tobytes() for frame in one}}) == 70
""")


def test_the_command_splits_by_rows(tmp_path):
    on_eight_devices(f"""
from pathlib import Path
from dmphn_jax import checkpoints
from tests.support.deblur import run
from tests.support.pictures import pixels, saved
folder = Path({str(tmp_path)!r})
config = ModelConfig(hierarchy="1", width=2)
params = random_params(config)
checkpoints.save(folder / "model", params, config)
source = saved(folder / "in.png", (noise(72, 20, 3) // 257).astype(np.uint8))
meshes, by_rows = [], programs.by_rows
programs.by_rows = lambda network, mesh: meshes.append(mesh) or by_rows(network, mesh)
assert run(source, "-c", folder / "model", "-o", folder / "out.png", "--split-rows") == 0
assert [mesh.size for mesh in meshes] == [8]
alone = dmphn_jax.Deblurrer(params=params, config=config, devices=jax.devices()[:1])
whole = alone(pixels(source)).astype(int)
assert whole.std() > 5
assert np.abs(pixels(folder / "out.png") - whole).max() <= 1
""")
