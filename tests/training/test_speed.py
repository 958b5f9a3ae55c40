"""Images per second by the chip, and their share of what the chip could do."""

from __future__ import annotations

import csv
import types

import jax
import numpy as np
import pytest

from dmphn_jax import chips
from dmphn_jax.commands import status as command
from dmphn_jax.models import ModelConfig
from dmphn_jax.runtime import data_mesh
from dmphn_jax.training import loop, speed, status
from dmphn_jax.training.experiments import start_from
from dmphn_jax.training.loop import train
from tests.support.training import ArrayFeed, tiny_config


def mesh_of(kind, count, per_chip=1, platform="tpu"):
    """Devices of a kind that is not here."""
    found = [
        types.SimpleNamespace(
            platform=platform, device_kind=kind, slice_index=0, coords=(i // per_chip, 0, 0)
        )
        for i in range(count)
    ]
    return types.SimpleNamespace(devices=np.array(found, object))


@pytest.mark.parametrize(
    ("kind", "platform", "dtype", "peak"),
    [
        ("TPU v5 lite", "tpu", "bfloat16", 197e12),
        ("TPU v6 lite", "tpu", "float32", 918e12 / 6),
        ("NVIDIA H100 80GB HBM3", "gpu", "bfloat16", 989e12),
        ("NVIDIA H100 PCIe", "gpu", "bfloat16", None),  # another chip than the one known
        ("NVIDIA A100-SXM4-80GB", "gpu", "bfloat16", None),
    ],
)
def test_a_known_accelerator_has_a_peak(kind, platform, dtype, peak):
    config = start_from("configs/base.py:stack4")
    config.compute_dtype, config.crop_size = dtype, 256
    model = ModelConfig(stages=4)
    found = speed.yardstick(mesh_of(kind, 8, platform=platform), model, config)
    assert (found.chips, found.peak) == (8, peak)
    # Stack(4): 2748 GMAC at 1280x720; a crop has 1/14.06 of its pixels.
    assert found.operations == pytest.approx(6 * 2748e9 * 256**2 / (1280 * 720), rel=1e-3)
    measured = found.measured(80.0)
    assert measured[speed.PER_CHIP] == 10
    share = pytest.approx(10 * found.operations / peak) if peak else None
    assert measured.get(speed.SHARE) == share


def test_a_chip_of_two_devices_counts_once():
    config = start_from("configs/base.py:dmphn_1")
    found = speed.yardstick(mesh_of("TPU7x", 8, per_chip=2), ModelConfig(), config)
    assert (found.chips, found.peak) == (4, chips.CHIPS["tpu7x"].peak[config.compute_dtype])


def test_of_a_cpu_nothing_is_claimed(tmp_path, compiled_once):
    mesh = data_mesh(jax.devices()[:1])
    assert speed.yardstick(mesh, ModelConfig(), tiny_config()) is None
    config = tiny_config()
    train(config, tmp_path, feed=ArrayFeed(config, mesh))
    rows = list(csv.DictReader((tmp_path / "metrics.csv").open()))
    assert {row[speed.PER_CHIP] for row in rows} == {row[speed.SHARE] for row in rows} == {""}
    assert speed.PER_CHIP not in status.read(tmp_path)


def test_a_run_on_an_accelerator_tells_it_everywhere(tmp_path, monkeypatch, compiled_once, capsys):
    seen = []
    real = speed.yardstick

    def of_four_chips(mesh, model, config):
        found = real(mesh_of("TPU v5 lite", 4), model, config)
        seen.append(found)
        return found

    monkeypatch.setattr(loop, "yardstick", of_four_chips)
    config = tiny_config()
    train(config, tmp_path, feed=ArrayFeed(config, data_mesh(jax.devices()[:1])))
    said = capsys.readouterr().out
    row = list(csv.DictReader((tmp_path / "metrics.csv").open()))[-1]
    rate, each, share = (
        float(row[name]) for name in ("images_per_second", speed.PER_CHIP, speed.SHARE)
    )
    assert each == pytest.approx(rate / 4, rel=1e-6)
    assert share == pytest.approx(each * seen[0].operations / seen[0].peak, rel=1e-6)
    last = f"{rate:.1f} images/s, {each:.1f} a chip, {100 * share:.1f} % of the arithmetic bound"
    assert last in said
    fields = status.read(tmp_path)
    assert fields[speed.SHARE] == pytest.approx(share, rel=1e-6)
    assert command.main([str(tmp_path)]) == 0
    assert f"rate: {last}" in capsys.readouterr().out
    events = b"".join(path.read_bytes() for path in (tmp_path / "tensorboard").iterdir())
    assert f"speed/{speed.SHARE}".encode() in events
