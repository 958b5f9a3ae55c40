"""How `dmphn deblur` starts: what it imports, and what it compiles a second time."""

import os
import re
import subprocess
import sys

import pytest

from tests.support.pictures import SHAPE, noise, saved

_COMMAND = """
import sys
from dmphn_jax.commands import deblur
status = deblur.main(sys.argv[1:])
print("modules:", *sorted(sys.modules))
sys.exit(status)
"""
# What training, data, figures, films and other formats take: seconds, for nothing here.
_NOT_HERE = (
    *("optax", "grain", "array_record", "tensorflow", "tensorflow_datasets", "clu", "tensorboardX"),
    *("orbax", "ml_collections", "matplotlib", "pandas", "scipy", "adjustText", "av", "torch"),
    *("dmphn_jax.training", "dmphn_jax.data", "dmphn_jax.evaluation", "dmphn_jax.benchmarking"),
    *("dmphn_jax.planning", "tfds_gopro", "flax.training", "flax.nnx", "IPython"),
)


@pytest.fixture(scope="module")
def starts(tmp_path_factory, checkpoint):
    """What two processes say that deblur one picture each, with an empty cache at first."""
    folder = tmp_path_factory.mktemp("starts")
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(folder / "compiled")}
    command = [sys.executable, "-c", _COMMAND, saved(folder / "x.png", noise(*SHAPE, 3))]
    return [
        subprocess.run(
            [*command, "--timings", "--checkpoint", checkpoint, "--output", folder / output],
            check=True,
            capture_output=True,
            text=True,
            env=environment,
        ).stdout
        for output in ("first.png", "second.png")
    ]


def test_a_second_start_compiles_nothing(starts):
    first, second = (
        tuple(map(int, re.search(r"programs: compiled (\d+), kept (\d+)", said).groups()))
        for said in starts
    )
    assert first[0] >= 1
    assert second == (0, sum(first))


def test_nothing_is_imported_that_training_and_data_need(starts):
    modules = starts[1].partition("modules: ")[2].split()
    assert "jax" in modules
    assert [name for name in modules for no in _NOT_HERE if f"{name}.".startswith(f"{no}.")] == []


def test_the_timings_name_every_part_and_the_rest(starts):
    line = next(line for line in starts[1].splitlines() if line.startswith("seconds: "))
    parts = {name: float(value) for name, value in re.findall(r"([a-z, ]+) (\d+\.\d+)", line)}
    parts = {name.lstrip(", "): seconds for name, seconds in parts.items()}
    outside = parts.pop("outside decode, compute and encode")
    total = parts.pop("in all")
    work = parts["decode"] + parts["compute"] + parts["encode"]
    assert set(parts) == {
        *("start", "kernels", "checkpoint", "programs", "decode", "compute", "encode"),
    }
    # Of one picture, nothing overlaps.
    assert outside == pytest.approx(total - work, abs=0.03)
    assert sum(parts.values()) <= total + 0.05
