import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dmphn_jax.planning import hlo

TEXT = """\
HloModule jit_many, is_scheduled=true

%moved (p: bf16[8,64]) -> bf16[64,8] {
  %p = bf16[8,64]{1,0} parameter(0)
  %t = bf16[64,8]{0,1} transpose(%p), dimensions={1,0}
  ROOT %c = bf16[64,8]{1,0} copy(%t)
}

%convolved (p: bf16[8,64], k: bf16[64,64]) -> bf16[8,64] {
  %p = bf16[8,64]{1,0} parameter(0)
  %k = bf16[64,64]{1,0} parameter(1)
  %moved.2 = bf16[64,8]{1,0} fusion(%p), kind=kLoop, calls=%moved
  ROOT %conv = bf16[8,64]{1,0} convolution(%moved.2, %k), dim_labels=fb_io->bf
}

%body (s: (s32[], bf16[8,64])) -> (s32[], bf16[8,64]) {
  %s = (s32[], bf16[8,64]{1,0}) parameter(0)
  %x = bf16[8,64]{1,0} get-tuple-element(%s), index=1
  %f = bf16[64,8]{1,0} fusion(%x), kind=kLoop, calls=%moved, metadata={op_name="jit(many)/while/body/jvp(Stack)/stage_1/level_2.encode/encoder/conv_1/conv_general_dilated"}, backend_config={"window_config":{"estimated_cycles":"30"}}
  %g = (bf16[8,64]{1,0}, f32[8]{0}) fusion(%f), kind=kOutput, calls=%convolved, metadata={op_name="jit(many)/while/body/transpose(jvp(Stack))/stage_2/level_1.decode/decoder/block_3/conv_2/add_any"}, backend_config={"window_config":{"estimated_cycles":"100"}}
  %a = (bf16[8,64]{1,0}, f32[]) all-reduce-start(%g), to_apply=%sum, backend_config={"estimated_cycles":"7"}
  %d = bf16[8,64]{1,0} all-reduce-done(%a)
  ROOT %r = (s32[], bf16[8,64]{1,0}) tuple(%n, %d)
}

%condition (s: (s32[], bf16[8,64])) -> pred[] {
  %s = (s32[], bf16[8,64]{1,0}) parameter(0)
  ROOT %less = pred[] compare(%i, %n), direction=LT
}

ENTRY %main (p: bf16[8,64]) -> bf16[8,64] {
  %p = bf16[8,64]{1,0} parameter(0)
  %early = f32[8,64]{1,0} convert(%p), backend_config={"estimated_cycles":"5"}
  %w = (s32[], bf16[8,64]{1,0}) while(%t), condition=%condition, body=%body LOOP
  ROOT %o = bf16[8,64]{1,0} get-tuple-element(%w), index=1
}
"""  # noqa: E501
TOLD = TEXT.replace(" LOOP", ', backend_config={"known_trip_count":{"n":"4"}}')
UNTOLD = TEXT.replace(" LOOP", "")


@pytest.mark.parametrize(("text", "turns"), [(TOLD, 1), (UNTOLD, 4)])
def test_a_loop_counts_as_often_as_it_turns(text, turns):
    found = hlo.operations(text, turns)
    assert hlo.cycles(found) == 5 + 4 * (30 + 100 + 7)
    assert {op.name: op.times for op in found} == {
        "early": 1, "f": 4, "g": 4, "a": 4, "d": 4, "less": 4,
    }  # fmt: skip


def test_kinds_of_operations():
    found = hlo.operations(TOLD)
    assert [op.name for op in hlo.moving(found, 8 * 64)] == ["f", "early"]
    assert hlo.moving(found, 8 * 64 + 1) == []
    assert [op.name for op in found if op.convolution] == ["g"]
    (exchange,) = hlo.collectives(found)
    assert (exchange.opcode, exchange.bytes, exchange.times) == ("all-reduce-start", 1028, 4)
    assert [op.name for op in hlo.dearest(found, 2)] == ["g", "f"]


@pytest.mark.parametrize(
    ("target", "moves"), [("{1,0:T(8,128)S(1)}", 0), ("{0,1:T(8,128)S(1)}", 1), ("{0,1}", 1)]
)
def test_a_prefetch_into_a_tpus_own_memory_is_no_move(target, moves):
    copied = (
        f"  %c = (bf16[8,64]{target}, bf16[8,64]{{1,0:T(8,128)}}, u32[]{{:S(2)}}) copy-start(%p)\n"
    )
    found = hlo.operations(TOLD.replace("  %early", copied + "  %early"))
    assert len(hlo.moving(found, 8 * 64)) == 2 + moves
    (copy,) = [op for op in found if op.name == "c"]
    assert copy.traffic == 8 * 64 * 2 * (1 if "S(1)" in target else 2)


def test_traffic_leaves_out_a_tpus_own_memory():
    text = TOLD.replace("f32[8]{0}) fusion", "f32[8]{0:T(128)S(1)}) fusion")
    found = {op.name: op.traffic for op in hlo.operations(text)}
    assert found["early"] == 8 * 64 * 2 + 8 * 64 * 4
    assert found["g"] == 2 * 8 * 64 * 2
    assert found["d"] == 0


PARTS = """\
%cut (p.0: u8[100,720,1280,3], p.1: s32[], p.2: f32[2]) -> f32[1,256,256,3] {
  %p.0 = u8[100,720,1280,3]{3,2,1,0} parameter(0)
  %p.1 = s32[] parameter(1)
  %p.2 = f32[2]{0} parameter(2)
  %flat = u8[100,720,1280,3]{3,2,1,0} bitcast(%p.0)
  %part = u8[1,256,256,3]{3,2,1,0} dynamic-slice(%flat, %p.1, %p.1, %p.1, %p.1), dynamic_slice_sizes={1,256,256,3}
  ROOT %c = f32[1,256,256,3]{3,2,1,0} convert(%part)
}

%put (p.0: f32[9,4], p.1: f32[1,4], p.2: s32[]) -> f32[9,4] {
  %p.0 = f32[9,4]{1,0} parameter(0)
  %p.1 = f32[1,4]{1,0} parameter(1)
  %p.2 = s32[] parameter(2)
  %twice = f32[1,4]{1,0} add(%p.1, %p.1)
  ROOT %u = f32[9,4]{1,0} dynamic-update-slice(%p.0, %twice, %p.2, %p.2)
}

ENTRY %main (a: u8[100,720,1280,3], i: s32[], b: f32[2], c: f32[9,4], d: f32[1,4]) -> f32[9,4] {
  %a = u8[100,720,1280,3]{3,2,1,0} parameter(0)
  %i = s32[] parameter(1)
  %b = f32[2]{0} parameter(2)
  %c = f32[9,4]{1,0} parameter(3)
  %d = f32[1,4]{1,0} parameter(4)
  %plain = u8[1,2,2,3]{3,2,1,0} dynamic-slice(%a, %i, %i, %i, %i), dynamic_slice_sizes={1,2,2,3}
  %cropped = f32[1,256,256,3]{3,2,1,0} fusion(%a, %i, %b), kind=kLoop, calls=%cut
  ROOT %in_place = f32[9,4]{1,0} fusion(%c, %d, %i), kind=kLoop, calls=%put
}
"""  # noqa: E501


def test_traffic_counts_the_part_of_an_array_that_is_read_or_written():
    found = {op.name: op.traffic for op in hlo.operations(PARTS)}
    crop, index = 256 * 256 * 3, 4
    assert found["plain"] == 12 + 12 + index * 4
    assert found["cropped"] == 4 * crop + crop + index + 0  # nothing reads the third
    assert found["in_place"] == 16 + 16 + index
    written = {op.name: op.bytes for op in hlo.operations(PARTS)}
    assert (written["cropped"], written["in_place"]) == (4 * crop, 16)


@pytest.mark.parametrize(
    ("kind", "result"),
    [
        ("(f32[2,8]{1,0}, f32[2,8]{1,0}, u32[], u32[]) collective-permute", 64),
        ("(f32[2,8]{1,0}, f32[4,8]{1,0}) all-gather", 128),
        ("((f32[2,8]{1,0}, f32[1]{0}), (f32[4,8]{1,0}, f32[2]{0})) all-gather", 136),
        ("(f32[2,8]{1,0}, f32[1]{0}) all-reduce", 68),
    ],
)
def test_an_asynchronous_exchange_counts_once(kind, result):
    lines = f"  %s = {kind}-start(%x)\n  %e = f32[4,8]{{1,0}} {kind.split()[-1]}-done(%s)\n"
    found = hlo.operations(TOLD.replace("  %a = ", lines + "  %a = "))
    assert [(op.name, op.bytes) for op in hlo.collectives(found)] == [("s", result), ("a", 1028)]
    assert [op.bytes for op in found if op.name == "e"] == [0]


def test_bytes_of_tuples():
    (g,) = [op for op in hlo.operations(TOLD) if op.name == "g"]
    assert g.shapes == (("bf16", (8, 64)), ("f32", (8,)))
    assert (g.bytes, g.elements) == (8 * 64 * 2 + 8 * 4, 8 * 64)
    assert g.read == 64 * 8 * 2


def test_the_models_own_names():
    found = {op.name: op.where for op in hlo.operations(TOLD)}
    assert found["f"] == "stage_1/level_2/encoder/conv_1"
    assert found["g"] == "gradient of stage_2/level_1/decoder/block_3/conv_2"
    assert hlo.model_name("jit(f)/add") == "jit(f)/add"
    again = "jit(f)/transpose(jvp(Stack))/stage_1/level_3.encode/encoder/checkpoint/encoder.opening"
    assert hlo.model_name(f"{again}/conv_1/add") == "gradient of stage_1/level_3/encoder/conv_1"
    twice = f"{again}/stage_1/level_3.encode/encoder/block_1/conv_1/add"
    assert hlo.model_name(twice) == "gradient of stage_1/level_3/encoder/block_1/conv_1"
    vmphn = "jit(f)/jvp(Stack)/stage_1/descending_level_2.encode/encoder/up_1/dot"
    assert hlo.model_name(vmphn) == "stage_1/descending_level_2/encoder/up_1"


def test_a_program_without_estimates_has_none():
    """XLA's own text, of the CPU at hand: a loop of seven products."""

    def looped(x):
        return jax.lax.scan(lambda x, _: (jnp.tanh(x @ x), None), x, None, length=7)[0]

    text = jax.jit(looped).lower(np.zeros((8, 8), np.float32)).compile().as_text()
    found = hlo.operations(text, 3)
    assert hlo.cycles(found) is None
    assert max(op.times for op in found) == 7
    assert hlo.collectives(found) == []
