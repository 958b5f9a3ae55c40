import dataclasses
import json
import types

import pytest

from dmphn_jax.commands import plan
from dmphn_jax.errors import UserError, run_command
from dmphn_jax.planning import compiler, machines, report, run
from dmphn_jax.planning.request import Compiled, Exchange, Listed, Memory, Request

MEMORY = Memory(
    parameters=100, optimiser=200, average=50, resident=1000, other=30, temporaries=5000,
    program=20, limit=6400,
)  # fmt: skip
COMPILED = Compiled(
    batch=16,
    devices=4,
    hosts=1,
    memory=MEMORY,
    needed=0,
    exchanges=(Exchange("all-reduce", 4_000_000, 4, 1),),
    operations=3e12,
    model_operations=1.97e12,
    bytes=81.9e9,
    cycles=300_000_000,
    moves=12,
    moves_cycles=1_000_000,
    all_moves=1_234,
    all_moves_cycles=3_000_000,
    convolution_bytes=10,
    other_bytes=20,
    seconds=60.0,
    precision="bfloat16",
    layout="folded",
    remat=False,
    dearest=(Listed("stage_1/level_1/encoder/conv_1", "fusion", "bf16[8,8]", 7, 128),),
)


def planned(compiled=COMPILED, devices="v5e:2x2", steps=36_000, price=1.5):
    length = report.Run(steps, 100.0, 256)
    return report.Plan("dmphn_1", machines.parse(devices), compiled, (256, 256), length, price)


def test_the_sum_is_of_all_parts():
    assert MEMORY.total == 6400
    assert COMPILED.fits
    one_more = dataclasses.replace(MEMORY, temporaries=5001)
    assert not dataclasses.replace(COMPILED, memory=one_more).fits
    assert not dataclasses.replace(COMPILED, memory=None, needed=9).fits


def test_times_and_money():
    made = planned()
    assert made.estimate == pytest.approx(0.2)  # 300 Mcycles at 1.5 GHz
    assert made.bounds == pytest.approx(
        {"arithmetic": 0.01, "memory": 0.1, "exchange": 4 * 3 / 4 * 4e6 / 400e9}
    )
    assert made.hours == pytest.approx(2.0)
    assert made.cost == pytest.approx(2.0 * 4 * 1.5)
    # Without cycles the highest bound is what is left.
    assert planned(dataclasses.replace(COMPILED, cycles=None)).seconds == pytest.approx(0.1)


def test_json_holds_all_and_crosses_over():
    made = json.loads(json.dumps(planned().to_dict()))
    assert made["executed"] is False
    assert (made["devices"], made["compiler_devices"]) == ("v5e:2x2", 4)
    assert made["memory_per_chip"]["sum"] == 6400
    assert made["fits"] is True
    assert made["cycles"] == 300_000_000
    assert made["bounds_seconds"].keys() == {"arithmetic", "memory", "exchange"}
    assert made["exchanges"] == [{"kind": "all-reduce", "bytes": 4_000_000, "group": 4, "times": 1}]
    again = Compiled.from_dict(json.loads(json.dumps(dataclasses.asdict(COMPILED))))
    assert again == COMPILED
    request = Request("v5e:2x2", config="c.py", overrides=("--config.seed=1",))
    assert Request.from_dict(json.loads(json.dumps(dataclasses.asdict(request)))) == request


@pytest.mark.parametrize(
    ("kind", "group", "turned"),
    [
        ("all-reduce", 4, 3 * 100),  # sends 3/4 twice, takes 3/4 twice
        ("all-reduce", 1, 0),
        ("all-gather", 2, 100),  # half is its own
        ("reduce-scatter", 4, 600),  # of four times the result
        ("collective-permute", 8, 200),
    ],
)
def test_bytes_that_a_device_sends_and_takes(kind, group, turned):
    assert Exchange(kind, 100, group, 1).turned == pytest.approx(turned)
    assert Exchange(kind, 100, group, 3).turned == pytest.approx(3 * turned)


def test_hosts_of_gpus_exchange_over_their_network():
    made = planned(dataclasses.replace(COMPILED, devices=16), devices="h100:16")
    assert made.bounds["network"] == pytest.approx(4 * 3 / 4 * 4e6 / 8 / 100e9)
    assert "network" not in planned(devices="h100:8").bounds
    assert "of a GPU that JAX takes" in report.text(made)
    assert made.machine.chip.memory == 60e9


def test_a_chip_of_two_devices_holds_what_both_hold():
    told = types.SimpleNamespace(
        argument_size_in_bytes=50, output_size_in_bytes=20, alias_size_in_bytes=10,
        temp_size_in_bytes=7, generated_code_size_in_bytes=3,
    )  # fmt: skip
    compiled = types.SimpleNamespace(memory_analysis=lambda: told)
    program = types.SimpleNamespace(parameters=10, optimiser=20, average=0, resident=5)
    for name, devices, chips in (("tpu7x:2x2x1", 8, 2), ("v5e:2x2", 4, 1)):
        made = compiler._memory(compiled, program, machines.parse(name), devices)
        assert made.total == chips * (60 + 7 + 3)


def test_a_batch_that_was_made_even_is_told():
    request = Request("v5e:2x2", config="configs/dmphn.py:1")
    for batch, told in ((6, 0), (8, 1)):
        compiled = dataclasses.replace(COMPILED, batch=batch)
        made = plan._plan(request, machines.parse("v5e:2x2"), compiled, None)
        assert report.text(made).count("--config.batch_size=8") == told


def test_exchanges_are_told_by_kind():
    many = [
        Exchange("permute", 10, 8, 2), Exchange("all-reduce", 5, 8, 1), Exchange("permute", 7, 8, 1)
    ]  # fmt: skip
    assert report.by_kind(many) == [("permute", 3, 27), ("all-reduce", 1, 5)]


def test_the_text_says_that_nothing_ran():
    said = report.text(planned())
    assert "Nothing was executed" in said
    assert "16 crops of 256x256 (4 a chip)" in said
    assert "300.0 Mcycles = 200 ms at 1.5 GHz" in said
    assert "36,000 steps" in said
    assert "stage_1/level_1/encoder/conv_1" in said
    gone = report.text(planned(dataclasses.replace(COMPILED, memory=None, needed=17 * 10**9)))
    assert "does not fit: takes 17.00 GB of 16.91 GB" in gone
    assert "Nothing was executed" in gone
    assert json.dumps(planned(dataclasses.replace(COMPILED, memory=None)).to_dict())


@pytest.mark.parametrize("end", [1, 2, 3, 7, 12, 100, 1000])
@pytest.mark.parametrize("fixed", [0, 600])
def test_the_largest_batch_that_fits(end, fixed):
    """Memory is a fixed part and 10 a pair; the limit is where `end` pairs fit and one more not."""
    tried = []

    def attempt(local):
        tried.append(local)
        memory = Memory(0, 0, 0, 0, fixed, 10 * local, 0, limit=fixed + 10 * end + 5)
        return dataclasses.replace(COMPILED, batch=local, memory=memory if local <= end else None)

    found = compiler.largest(attempt)
    assert found[-1].batch == end
    assert len(tried) == len(set(tried)) <= 9
    assert [item.batch for item in found].count(end) == 1


def test_nothing_fits():
    none = dataclasses.replace(COMPILED, memory=None, batch=1)
    assert compiler.largest(lambda local: none) == [none]


def test_a_compiler_that_is_not_installed_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr(run.importlib.util, "find_spec", lambda name: None)
    monkeypatch.delenv("TPU_LIBRARY_PATH", raising=False)
    for devices, install in (("v5e:2x2", "libtpu"), ("h100:1", "jax[cuda13]")):
        argv = ["--model", "stack4", "--devices", devices]
        assert run_command(plan.main, argv) == 2
        error = capsys.readouterr().err
        assert install in error
        assert error.count("\n") == 1


def test_a_compiler_that_dies_is_one_line(monkeypatch):
    monkeypatch.setattr(run.importlib.util, "find_spec", lambda name: True)
    monkeypatch.setattr(run.sys, "executable", "/bin/false")
    with pytest.raises(UserError, match="process ended"):
        run.ask(Request("v5e:2x2", model="stack4"), print)


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--model", "stak4", "--devices", "v5e:2x2"], "no model is called"),
        (["--config", "configs/stak4.py", "--devices", "v5e:2x2"], "no such config file"),
        (["--model", "stack4", "--devices", "v5x"], "no chip is called"),
        (["--model", "stack4", "--devices", "v5e", "--remat"], "--remat goes with --config"),
        (["--config", "configs/stack4.py", "--devices", "v5e", "--size", "9x9"], "--size goes"),
        (
            ["--config", "configs/stack4.py", "--devices", "v5e", "--config.crop_size=9"],
            "config.crop_size",
        ),
        (
            ["--config", "configs/stack4.py", "--devices", "v5e", "--config.crop_size", "9"],
            "config.crop_size",
        ),
        (["--model", "stack4", "--devices", "v5e", "--noconfig.remat"], "config.remat"),
        (
            ["--config", "configs/stack4.py", "--devices", "v5e", "--config.data.source=folder"],
            "--pairs N",
        ),
        (["--model", "stack4", "--devices", "v5e", "--no-remat"], "--remat goes with --config"),
        (["--model", "stack4", "--devices", "v5e", "--precision", "float16"], "bfloat16 or float"),
        (["--model", "stack4", "--devices", "v5e", "--split-rows", "--batch", "8"], "no --batch"),
        (
            ["--model", "stack4", "--devices", "v5e", "--split-rows", "--layout", "folded"],
            "--layout xla",
        ),
        (
            ["--model", "stack4", "--devices", "v5e", "--price-per-chip-hour", "1"],
            "--price-per-chip-hour goes with --config",
        ),
        (["--model", "stack4", "--devices", "v5e", "--json", "/dev/null/f"], "cannot be written"),
        (["--model", "stack4", "--devices", "v5e", "--hlo", "."], "it is a folder"),
    ],
)
def test_mistakes_are_one_line(argv, says, capsys):
    assert run_command(plan.main, argv) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
