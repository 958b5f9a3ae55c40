"""The benchmark command: what it times, counts, checks and writes. No test looks at a time."""

import dataclasses
import json
import sys

import jax
import numpy as np
import pytest

from dmphn_jax import cpu_kernels, runtime
from dmphn_jax.benchmarking import (
    agreement,
    counts,
    groups,
    jax_cases,
    peers,
    scaling,
    tables,
    timing,
)
from dmphn_jax.benchmarking.ceilings import ceiling, ceilings
from dmphn_jax.benchmarking.contender import Contender
from dmphn_jax.commands import benchmark
from dmphn_jax.errors import UserError, run_command
from dmphn_jax.models import ModelConfig, init_params, multiply_adds, operations
from tests.support.commands import help_without

TINY = ["--models=dmphn_1", "--width=2", "--sizes=16x16", "--batches=1", "--rounds=3"]
TINY += ["--warmup=1", "--seconds=0"]


class Clock:
    """Seconds that pass only when a case runs."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def cases_of(clock, log, **seconds):
    """Cases that take so many seconds, and log when they start and are awaited."""

    def case(name, duration):
        def start():
            log.append(name)
            clock.now += duration
            return name

        return timing.Case(name, start, lambda started: log.append(f"{started}."))

    return [case(name, duration) for name, duration in seconds.items()]


def test_competitors_take_turns_and_are_awaited():
    clock, log = Clock(), []
    cases = cases_of(clock, log, a=1.0, b=2.0)
    times = timing.measure(cases, warmup=1, rounds=2, clock=clock)
    assert log == ["a", "a.", "b", "b."] * 3
    assert [t.single for t in times] == [(1000, 1000), (2000, 2000)]
    assert times[0].throughput_ms == 1000


def test_queued_work_is_awaited_once():
    clock, log = Clock(), []
    cases = cases_of(clock, log, a=1.0)
    (times,) = timing.measure(cases, warmup=0, rounds=1, queue=3, clock=clock)
    assert log == ["a", "a.", "a", "a", "a", "a."]
    assert times.queued == (1000,)


@pytest.mark.parametrize(("seconds", "rounds"), [(0, 3), (25, 5), (1e9, 7)])
def test_the_budget_bounds_the_rounds(seconds, rounds):
    clock, log = Clock(), []
    cases = cases_of(clock, log, a=2.0, b=3.0)
    times = timing.measure(cases, warmup=0, rounds=7, seconds=seconds, clock=clock)
    assert {len(t.single) for t in times} == {rounds}


def test_quantiles():
    times = timing.Times((5.0, 1.0, 3.0, 2.0, 4.0))
    values = times.to_dict()
    assert (values["p50_ms"], values["mean_ms"], values["min_ms"], values["rounds"]) == (3, 3, 1, 5)
    assert values["p90_ms"] == pytest.approx(4.6)
    assert timing.Times((5.0,), (1.0, 2.0, 9.0)).throughput_ms == 2


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("width", [1, 16])
def test_operations_are_what_the_compiler_counts(training, width):
    config = ModelConfig("dmphn", "1", width=width)
    group = groups.Group("training" if training else "inference", config, (64, 64), 2)
    (made,) = groups.contenders(group, groups.Settings(device=jax.devices()[0]))
    counted = 2 * operations(config, 64, 64, training=training)
    assert counted == (3 if training else 1) * 2 * 2 * multiply_adds(config, 64, 64)
    # The compiler leaves out products with the zeros of borders; a first layer has no gradient
    # of its input.
    assert made.counts["flops_lowered"] == pytest.approx(counted, rel=0.06 if width > 1 else 0.5)
    # What the CPU's kernels read and write is not counted: no half truths.
    kernels = cpu_kernels.load()
    hidden = kernels is not None and kernels.serve(np.dtype("float32"), 4 * width)
    assert (made.counts["bytes_accessed"] is None) == hidden
    memory = made.memory()
    assert memory["source"] == "compiled"
    assert memory["bytes"] > 2 * 64 * 64 * 3


def test_counts_that_a_backend_does_not_give_are_none():
    class Silent:
        def as_text(self):
            raise NotImplementedError

        def cost_analysis(self):
            return None

        def memory_analysis(self):
            raise NotImplementedError

    class Broken:
        def cost_analysis(self):
            raise NotImplementedError

    assert set(counts.xla_counts(None, Broken(), Silent()).values()) == {None}
    assert counts.compiled_bytes(Silent()) is None


def test_device_memory_counts_only_if_it_rose():
    class Device:
        peak = 100

        def memory_stats(self):
            return {"peak_bytes_in_use": self.peak}

    class Compiled:
        def memory_analysis(self):
            sizes = {"argument": 5, "output": 7, "temp": 11, "alias": 3}
            fields = {f"{k}_size_in_bytes": v for k, v in sizes.items()}
            return dataclasses.make_dataclass("Sizes", fields)(**fields)

    device = Device()
    planned = {"bytes": 20, "source": "compiled", "planned_bytes": 20}
    quiet = jax_cases._Memory(device, Compiled())
    quiet.watching(lambda: None)()
    device.peak = 120  # somebody else's
    assert quiet() == planned

    greedy = jax_cases._Memory(device, Compiled())
    run = greedy.watching(lambda: setattr(device, "peak", device.peak + 10))
    run()
    run()
    assert greedy() == planned | {"bytes": 130, "source": "device"}


def test_ceilings():
    found = ceilings(jax.devices()[0], small=True)
    assert [(row["kind"], row.get("precision")) for row in found] == [
        ("matmul", "float32"),
        ("matmul", "bfloat16"),
        ("copy", None),
    ]
    assert all(row["per_second"] > 0 for row in found)
    rows = [*found, {"kind": "matmul", "precision": "float32", "per_second": 1e30}]
    assert ceiling(rows, "matmul", "float32") == 1e30
    assert ceiling(rows, "matmul", "tf32") is None


def contender(name, image, precision="float32"):
    case = timing.Case(name, lambda: None, lambda _: None)
    return Contender("jax", name, precision, case, lambda: {"image": np.float32(image)})


def test_agreement_is_a_part_of_the_scale():
    reference = contender("a", [0.5, -4.0])
    (row,) = agreement.check([reference, contender("b", [0.5003, -4.0])])
    assert row["difference"] == pytest.approx(3e-4, rel=1e-3)
    assert (row["scale"], row["bound"]) == (4.0, pytest.approx(4e-4))
    assert agreement.check([reference, contender("b", [0.5, -3.7], "bfloat16")])
    assert agreement.check([reference]) == []
    # Whichever of two is the reference, the wider bound holds.
    low, middle = contender("a", [0.5, -4.0], "bfloat16"), contender("b", [0.5, -3.7], "tf32")
    for pair in ([low, middle], [middle, low]):
        (row,) = agreement.check(pair)
        assert row["bound"] == pytest.approx(0.1 * row["scale"])


@pytest.mark.parametrize("image", [[0.501, -4.0], [np.nan, -4.0], [0.5]])
def test_disagreement_is_an_error(image):
    with pytest.raises(agreement.DisagreementError):
        agreement.check([contender("a", [0.5, -4.0]), contender("b", image)])


def test_a_line_is_fitted():
    line = scaling.fit([1, 2, 3, 4], [5, 7, 9, 11])
    assert (line.slope, line.intercept, line.r2) == pytest.approx((2, 3, 1))
    x, y = np.array([1.0, 2, 4, 5]), np.array([1.0, 5, 2, 6])
    line = scaling.fit(x, y)
    assert (line.slope, line.intercept) == pytest.approx(tuple(np.polyfit(x, y, 1)))
    assert line.r2 == pytest.approx(np.corrcoef(x, y)[0, 1] ** 2)


def test_sweeps_vary_one_thing():
    config = ModelConfig("dmphn", "1-2", width=2)
    made = scaling.sweeps(config, (64, 32))
    assert [g.size for _, g in made["pixels"]] == [(16, 32), (32, 32), (48, 32), (64, 32)]
    assert [x for x, _ in made["pixels"]] == pytest.approx(
        [1e-6 * np.prod(g.size) for _, g in made["pixels"]]
    )
    assert [g.batch for _, g in made["batch"]] == [1, 2, 3, 4]
    assert [g.config.hierarchy for _, g in made["levels"]] == ["1", "1-2", "1-2-4", "1-2-4-8"]
    assert [g.config.stages for _, g in made["stages"]] == [1, 2, 3, 4]
    # By the formula all of them are straight lines.
    for points in made.values():
        cost = [g.batch * operations(g.config, *g.size) for _, g in points]
        assert scaling.fit([x for x, _ in points], cost).r2 == pytest.approx(1)
    with pytest.raises(UserError, match="scales, not levels"):
        scaling.sweeps(ModelConfig("dmsn", "2"), (64, 32))
    with pytest.raises(UserError, match="too low"):
        scaling.sweeps(config, (16, 32))
    with pytest.raises(UserError, match="multiples of 16x8"):
        scaling.sweeps(config, (72, 32))


def test_a_sweep_and_its_figure():
    config = ModelConfig("dmphn", "1", width=2)
    points = scaling.sweeps(config, (16, 16))["stages"][:2]
    settings = groups.Settings(device=jax.devices()[0], rounds=1, warmup=1)
    found = scaling.run("stages", points, settings)
    assert [p["x"] for p in found["points"]] == [1, 2]
    assert found["precision"] == "float32"
    json.dumps(found, allow_nan=False)
    assert scaling.plot([found], "title").startswith(b"\x89PNG")


def test_the_command_writes_its_figures(tmp_path, capsys, monkeypatch):
    kept = []
    monkeypatch.setattr(runtime, "keep_freed_memory", lambda: kept.append(True))
    argv = [*TINY, "--mode=both", "--no-ceilings"]
    assert benchmark.main([*argv, f"--out={tmp_path / 'new'}"]) == 0
    printed = capsys.readouterr().out
    assert (tmp_path / "new" / "benchmark.md").read_text() == printed
    made = json.loads((tmp_path / "new" / "benchmark.json").read_text())
    assert made["format"] == 2
    assert kept == [True], "as training does it"
    assert made["settings"]["keep_memory"]
    assert "the process kept freed memory" in printed
    assert made["command"].startswith("dmphn benchmark --models=dmphn_1 --width=2")
    assert made["environment"]["platform"] == "cpu"
    assert made["environment"]["libraries"]["jax"] == jax.__version__
    found = [(row["mode"], row["contender"], row["batch"]) for row in made["rows"]]
    assert found == [
        ("inference", "jax float32", 1),
        ("training", "jax float32", 1),
    ]
    config = ModelConfig("dmphn", "1", width=2)
    for row in made["rows"]:
        assert row["rounds"] == 3
        assert row["min_ms"] <= row["p50_ms"] <= row["p90_ms"]
        assert row["images_per_second"] == pytest.approx(1000 / row["throughput_ms"])
        assert row["compile_s"] > 0
        factor = 3 if row["mode"] == "training" else 1
        assert row["flops"] == factor * 2 * multiply_adds(config, 16, 16)
        assert row["flops_per_second"] == pytest.approx(1000 * row["flops"] / row["throughput_ms"])
        assert row["memory"]["source"] == "compiled"
        assert row["share_of_matmul"] is row["share_of_copy"] is None
    assert made["agreement"] == made["ratios"] == made["scaling"] == made["ceilings"] == []
    for text in ("# Benchmark", "## Inference", "## Training", "| jax float32 |"):
        assert text in printed
    assert "## Ceilings" not in printed
    assert "## Agreement" not in printed
    assert f"- command: `{made['command']}`" in printed


def test_the_command_against_torch_and_its_scaling(tmp_path, capsys, monkeypatch):
    pytest.importorskip("torch", reason="PyTorch is not installed (extra `compare`)")
    config = ModelConfig("dmphn", "1", width=2)
    two = scaling.sweeps(config, (16, 16))["batch"][:2]
    monkeypatch.setattr(scaling, "sweeps", lambda *_: {"batch": two})
    small = ceilings(jax.devices()[0], small=True)
    monkeypatch.setattr("dmphn_jax.benchmarking.ceilings.ceilings", lambda *_, **__: small)
    monkeypatch.setattr(peers, "_bfloat16_on_cpu", lambda: False)
    argv = [*TINY, "--vs=torch", "--scaling", f"--out={tmp_path}"]
    assert benchmark.main(argv) == 0
    printed = capsys.readouterr().out
    made = json.loads((tmp_path / "benchmark.json").read_text())
    times = {row["contender"]: row["times_ms"] for row in made["rows"]}
    assert list(times) == ["jax float32", "torch as-released", "torch channels-last"]
    for row in made["ratios"]:
        theirs, ours = times[row["peer"]], times[row["jax"]]
        assert row["ratio"] == pytest.approx(np.median(np.divide(theirs, ours)))
        assert row["ratio_best"] == pytest.approx(min(theirs) / min(ours))
    assert len(made["ratios"]) == 2
    assert [row["what"] for row in made["agreement"]] == ["image", "image"]
    assert all(row["difference"] <= row["bound"] for row in made["agreement"])
    (matmul,) = [r["per_second"] for r in made["ceilings"] if r.get("precision") == "float32"]
    for row in made["rows"]:
        assert row["share_of_matmul"] == pytest.approx(row["flops_per_second"] / matmul)
    assert made["rows"][1]["xla"] is None
    assert made["environment"]["torch_threads"] >= 1
    assert made["scaling"][0]["sweep"] == "batch"
    assert (tmp_path / "scaling.png").read_bytes().startswith(b"\x89PNG")
    for text in (
        "## Agreement",
        "The peers' time over JAX's",
        "Ceilings, measured",
        "R²",
        "torch as-released",
    ):
        assert text in printed


def test_contenders_that_disagree_are_not_timed(monkeypatch, capsys):
    pytest.importorskip("torch", reason="PyTorch is not installed (extra `compare`)")
    from dmphn_jax.benchmarking import torch_cases

    make = torch_cases.inference

    def perturbed(config, params, *rest, **options):
        return make(config, init_params(config, seed=5), *rest, **options)

    monkeypatch.setattr(torch_cases, "inference", perturbed)
    monkeypatch.setattr(groups, "measure", lambda *_, **__: pytest.fail("timed"))
    assert run_command(benchmark.main, [*TINY, "--vs=torch", "--no-ceilings"]) == 1
    err = capsys.readouterr().err.splitlines()
    assert "torch as-released and jax float32 do not give the same image" in err[-1]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--models=dmphn_1_2_3"], "no model is called 'dmphn_1_2_3'"),
        (["--sizes=30x32"], "--sizes 30x32: dmphn_1_2_4 takes multiples of 8x8"),
        (["--sizes=16x32", "--mode=training"], "--sizes 16x32: training crops are square"),
        (["--stages=3", "--models=stack2"], "--stages 3: stack2 has 2"),
        (["--precisions=float17"], "--precisions float17: one of float32, tf32, bfloat16, float16"),
        (["--precisions=float16", "--mode=both"], "float16: for --mode inference, not both"),
        (["--seconds=-1"], "--seconds -1.0: must be a number from 0 up"),
        (["--seconds=inf"], "--seconds inf: must be a number from 0 up"),
        (["--tolerance=nan"], "--tolerance nan: must be a number from 0 up"),
        (["--width=2000"], "--width 2000: at most 1024"),
        (["--out=FILE"], "is a file; name a folder"),
        (["--vs=torch,tensorrt"], "--vs tensorrt: one of torch, torch-compile"),
        (["--torch-variants=as-released", "--vs=openvino"], "needs --vs torch or torch-compile"),
        (["--torch-variants=as-released"], "--torch-variants needs --vs torch or torch-compile"),
        (["--models=dmsn_2", "--scaling", "--sizes=64x64"], "--scaling: dmsn_2 has scales"),
        (["--models=stack64_vmphn_1", "--scaling"], "--scaling: stack64_vmphn_1: "),
    ],
)
def test_mistakes_are_one_line(tmp_path, capsys, argv, message):
    (tmp_path / "file").write_text("")
    argv = [word.replace("FILE", str(tmp_path / "file")) for word in argv]
    assert run_command(benchmark.main, argv) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert message in err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--models=vmphn"], "vmphn: the PyTorch twin covers the dmphn family"),
        (["--precisions=bfloat16"], "add it to --precisions"),
        (["--torch-variants=compile-tf32"], "--torch-variants compile-tf32: needs a GPU"),
        (["--torch-variants=as-relased"], "(did you mean 'as-released'?)"),
        (["--torch-variants=compile"], "--torch-variants compile: needs --vs torch-compile"),
    ],
)
def test_mistakes_with_torch_are_one_line(capsys, argv, message):
    pytest.importorskip("torch", reason="PyTorch is not installed (extra `compare`)")
    assert run_command(benchmark.main, ["--vs=torch", *argv]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert message in err


def test_without_torch_the_extra_is_named(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch", None)
    assert run_command(benchmark.main, ["--vs=torch"]) == 2
    assert "pip install torch, or 'dmphn_jax[compare]'" in capsys.readouterr().err


def test_a_peer_that_is_missing_is_left_out(monkeypatch, capsys):
    monkeypatch.setattr(peers, "_installed", lambda module: module not in ("onnx", "onnxruntime"))
    named = ["torch", "onnxruntime", "openvino"]
    assert peers.usable(named, on_cpu=True, training=False) == ["torch"]
    err = capsys.readouterr().err.splitlines()
    assert len(err) == 2
    assert "left out: --vs onnxruntime needs onnx onnxruntime: pip install onnx onnxr" in err[0]
    assert "--vs openvino needs onnx: pip install onnx," in err[1]
    with pytest.raises(UserError, match=r"onnxruntime needs .*; --vs openvino needs"):
        peers.usable(named[1:], on_cpu=True, training=False)


@pytest.mark.parametrize(("on_cpu", "training"), [(False, False), (True, True)])
def test_some_peers_do_inference_on_a_cpu_only(monkeypatch, capsys, on_cpu, training):
    monkeypatch.setattr(peers, "_installed", lambda _: True)
    named = ["openvino", "torch"]
    assert peers.usable(named, on_cpu=on_cpu, training=training) == ["torch"]
    assert "--vs openvino compares inference on a CPU only" in capsys.readouterr().err


def test_torch_compile_needs_a_compiler_on_a_cpu(monkeypatch):
    monkeypatch.setattr(peers, "_installed", lambda _: True)
    monkeypatch.setattr(peers.shutil, "which", lambda _: None)
    with pytest.raises(UserError, match="needs a C\\+\\+ compiler"):
        peers.usable(["torch-compile"], on_cpu=True, training=False)
    assert peers.usable(["torch-compile"], on_cpu=False, training=True) == ["torch-compile"]


def test_what_does_not_fit_is_one_line(monkeypatch):
    def full(*_):
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory")

    monkeypatch.setattr(groups, "contenders", full)
    group = groups.Group("inference", ModelConfig(), (720, 1280), 64)
    with pytest.raises(UserError, match="batch 64 of 720x1280: does not fit"):
        groups.run(group, groups.Settings(device=jax.devices()[0]))


def test_figures_are_shown_with_three_digits():
    shown = [tables._digits(x) for x in (None, 0, 0.00123456, 1.2345, 43.21, 1234.5)]
    assert shown == ["", "0", "0.00123", "1.23", "43.2", "1,234"]


def test_help_needs_neither_jax_nor_torch():
    assert "--vs" in help_without("benchmark", "jax", "torch")


def test_stolen_time_is_a_share_of_the_busy_time(monkeypatch):
    ticks = iter([(10, 100), (15, 120), (15, 120)])
    monkeypatch.setattr(timing, "_processor_time", lambda: next(ticks))
    stolen = timing.Stolen()
    assert stolen.share() == 5 / 20
    monkeypatch.setattr(timing, "_processor_time", lambda: None)
    assert stolen.share() is None
