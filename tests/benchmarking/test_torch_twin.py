"""The PyTorch twin against our networks: images, gradients, training, and the check itself."""

import dataclasses

import jax
import numpy as np
import pytest

from dmphn_jax.benchmarking import agreement, groups, jax_cases, peers
from dmphn_jax.benchmarking.peers import VARIANTS
from dmphn_jax.models import ModelConfig, build, init_params, zoo
from tests.support.networks import random_image, random_params

torch = pytest.importorskip("torch", reason="PyTorch is not installed (extra `compare`)")

from dmphn_jax.benchmarking import torch_cases, torch_twin  # noqa: E402

CPU = torch.device("cpu")


def settings(**fields):
    fields = {"variants": ("as-released", "channels-last")} | fields
    return groups.Settings(device=jax.devices()[0], torch_device=CPU, **fields)


def perturbed(make):
    """Returns `make` of a contender, given weights of which one kernel is 1 % larger."""

    def made(config, params, *rest, **options):
        params = jax.tree.map(np.copy, params)
        params["stage_1"]["level_1"]["encoder"]["block_3"]["conv_1"]["kernel"] *= 1.01
        return make(config, params, *rest, **options)

    return made


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("dmphn_1_2_4", {}),
        ("dmphn_1_2_4_8", {}),
        ("dmphn_1_2_4_ws", {}),
        ("dmphn_1_2_4", {"global_skip": True}),
        ("stack3", {}),
        ("stack2_dmphn_1_2_ws", {"global_skip": True}),
    ],
)
def test_twin_gives_our_images(name, fields):
    config = dataclasses.replace(zoo.get(name), width=4, **fields)
    params, x = random_params(config), random_image()
    expected = build(config).apply({"params": params}, x).stages
    for patchwise in (torch_twin.patch_by_patch, torch_twin.stacked):
        net = torch_twin.Twin(config, patchwise).load(params)
        with torch.inference_mode():
            found = net(torch.from_numpy(x).permute(0, 3, 1, 2))
        assert len(found) == len(expected) == config.stages
        for ours, theirs in zip(expected, found, strict=True):
            theirs = theirs.permute(0, 2, 3, 1).numpy()
            np.testing.assert_allclose(theirs, ours, atol=1e-5 * np.abs(ours).max(), rtol=0)


def test_twin_has_the_authors_names():
    net = torch_twin.Twin(ModelConfig(width=2))
    names = set(net.state_dict())
    assert {
        "stage_1.level_3.encoder.layer1.weight",
        "stage_1.level_1.decoder.layer22.2.bias",
    } < names
    assert sum(p.numel() for p in net.parameters()) == sum(
        x.size for x in jax.tree.leaves(init_params(ModelConfig(width=2)))
    )


def test_both_train_alike(monkeypatch):
    """Loss and gradient norm of the first step agree, and those of the steps after it."""
    config = dataclasses.replace(zoo.get("stack2_dmphn_1"), width=4)
    group = groups.Group("training", config, (16, 16), 2)
    # The GPU's variants run here too, all but what they would be compiled to.
    compiled = torch.compile
    monkeypatch.setattr(torch, "compile", lambda net: compiled(net, backend="eager"))
    variants = [name for name, how in VARIANTS.items() if how.library == "torch"]
    made = groups.contenders(group, settings(variants=tuple(variants)))
    first = made[0].check()
    recorded = dataclasses.replace(made[0], check=lambda: first)
    compared = agreement.check([recorded, *made[1:]])
    assert len(compared) == 2 * len(variants)
    assert {row["what"] for row in compared} == {"loss", "gradient norm"}
    for _ in range(3):
        ours, *theirs = [c.check() for c in made if c.precision == "float32"]
        assert len(theirs) == 3
        for other in theirs:
            for what, value in ours.items():
                np.testing.assert_allclose(other[what], value, rtol=1e-4)
    # With a changed weight it would have been found out.
    monkeypatch.setattr(torch_cases, "training", perturbed(torch_cases.training))
    monkeypatch.setattr(jax_cases, "training", lambda *_, **__: recorded)
    with pytest.raises(agreement.DisagreementError, match="do not give the same"):
        agreement.check(groups.contenders(group, settings()))


def test_first_stages_and_bfloat16_agree():
    config = dataclasses.replace(zoo.get("stack2_dmphn_1"), width=4)
    group = groups.Group("inference", config, (16, 16), 2, stages=1)
    made = groups.contenders(group, settings(precisions=("bfloat16", "float32")))
    assert [contender.name for contender in made] == [
        "jax float32",
        "jax bfloat16",
        "torch as-released",
        "torch channels-last",
    ]
    rows = {row["contender"]: row for row in agreement.check(made)}
    assert rows["torch as-released"]["difference"] <= 1e-5 * rows["torch as-released"]["scale"]
    assert 0 < rows["jax bfloat16"]["difference"] <= 0.1 * rows["jax bfloat16"]["scale"]
    # What is timed is the same image, rounded to whole grey levels.
    (ours, _), theirs = made[0].case.start(), made[2].case.start()
    assert theirs.dtype == torch.uint8
    difference = np.asarray(ours).astype(int) - theirs.permute(0, 2, 3, 1).numpy()
    assert np.abs(difference).max() <= 1


def test_a_changed_weight_is_found(monkeypatch):
    config = ModelConfig("dmphn", "1", width=4)
    monkeypatch.setattr(torch_cases, "inference", perturbed(torch_cases.inference))
    made = groups.contenders(groups.Group("inference", config, (16, 16), 1), settings())
    with pytest.raises(agreement.DisagreementError, match="do not give the same image"):
        agreement.check(made)


@pytest.mark.parametrize("bfloat16", [False, True])
def test_variants_that_fit_a_cpu(monkeypatch, bfloat16):
    monkeypatch.setattr(peers, "_bfloat16_on_cpu", lambda: bfloat16)
    found = peers.fitting(tuple(peers.PEERS), "cpu")
    exact = ["as-released", "channels-last", "compile", "onnxruntime-float32", "openvino-float32"]
    low = ["channels-last-bfloat16", "compile-bfloat16", "openvino-bfloat16"]
    assert sorted(found) == sorted(exact + low * bfloat16)


@pytest.mark.parametrize(
    ("peer", "names"),
    [
        ("onnxruntime", ["onnxruntime float32"]),
        ("openvino", ["openvino float32", "openvino bfloat16"]),
    ],
)
def test_onnx_files_give_our_images(monkeypatch, peer, names):
    for module in peers.PEERS[peer].modules:
        pytest.importorskip(module, reason=f"{module} is not installed (extra `compare`)")
    monkeypatch.setattr(peers, "_bfloat16_on_cpu", lambda: True)
    config = dataclasses.replace(zoo.get("stack2_dmphn_1_2"), width=4)
    group = groups.Group("inference", config, (16, 16), 2)
    made = groups.contenders(group, settings(variants=tuple(peers.fitting([peer], "cpu"))))
    assert [contender.name for contender in made] == ["jax float32", *names]
    rows = {row["contender"]: row for row in agreement.check(made)}
    row = rows[f"{peer} float32"]
    assert row["difference"] <= 1e-5 * row["scale"]
    (ours, _), *theirs = [contender.case.start() for contender in made]
    for other, contender in zip(theirs, made[1:], strict=True):
        assert other.dtype == np.uint8
        difference = np.abs(np.asarray(ours).astype(int) - other.transpose(0, 2, 3, 1))
        assert difference.max() <= (1 if contender.precision == "float32" else 3)
