import dataclasses
import json

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
    exchanges=(Exchange("all-reduce", 4_000_000, 1),),
    operations=3e12,
    model_operations=1.97e12,
    bytes=81.9e9,
    cycles=300_000_000,
    moves=12,
    moves_cycles=1_000_000,
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
    assert made["exchanges"] == [{"kind": "all-reduce", "bytes": 4_000_000, "times": 1}]
    again = Compiled.from_dict(json.loads(json.dumps(dataclasses.asdict(COMPILED))))
    assert again == COMPILED
    request = Request("v5e:2x2", config="c.py", overrides=("--config.seed=1",))
    assert Request.from_dict(json.loads(json.dumps(dataclasses.asdict(request)))) == request


def test_exchanges_are_told_by_kind():
    many = [Exchange("permute", 10, 2), Exchange("all-reduce", 5, 1), Exchange("permute", 7, 1)]
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
            ["--config", "configs/stack4.py", "--devices", "v5e", "--config.data.source=folder"],
            "--pairs N",
        ),
    ],
)
def test_mistakes_are_one_line(argv, says, capsys):
    assert run_command(plan.main, argv) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
