import pytest

from dmphn_jax.errors import UserError
from dmphn_jax.planning import machines


@pytest.mark.parametrize(
    ("text", "name", "chips", "hosts"),
    [
        ("v5e:4x4", "v5e:4x4", 16, 4),
        ("v5e", "v5e:2x2", 4, 1),
        ("v6e:2x4", "v6e:2x4", 8, 1),
        ("v5e:4x8", "v5e:4x8", 32, 8),
        ("V6E:16x16", "v6e:16x16", 256, 64),
        ("v5p", "v5p:2x2x1", 4, 1),
        ("v5p:4x4x4", "v5p:4x4x4", 64, 16),
        ("h100", "h100:1", 1, 1),
        ("h200:16", "h200:16", 16, 2),
    ],
)
def test_names(text, name, chips, hosts):
    machine = machines.parse(text)
    assert (machine.name, machine.chips, machine.hosts) == (name, chips, hosts)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("v6f:2x2", "did you mean 'v6e'?"),
        ("v5e:", None),
        ("v5e:2x2x1", "did you mean v5e:2x2?"),
        ("v5p:4x4", "did you mean v5p:2x2x4?"),
        ("v5e:0x4", "no slice of TPU v5e"),
        ("v5e:99999x1", "no slice of TPU v5e"),
        ("v5e:axb", "no slice of TPU v5e"),
        ("h100:0", "1 to 8 or whole hosts of 8"),
        ("h100:12", "1 to 8 or whole hosts of 8"),
        ("h100:2x2", "1 to 8 or whole hosts of 8"),
        ("", "no chip is called ''"),
    ],
)
def test_what_there_is_not(text, says):
    if says is None:
        assert machines.parse(text).chips == 4
        return
    with pytest.raises(UserError) as error:
        machines.parse(text)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_the_nearest_slice_of_a_size_the_compiler_refuses():
    error = machines.unknown_topology(machines.parse("v5e:3x5"))
    assert "did you mean v5e:4x4?" in str(error)


def test_figures_are_plausible():
    for chip in machines.CHIPS.values():
        assert 1e10 < chip.memory < 1e12
        assert chip.peak["bfloat16"] > 4 * chip.peak["float32"] > 1e13
        # Between 50 and 1000 operations per byte: a slip of a unit would leave that range.
        assert 50 < chip.peak["bfloat16"] / chip.bandwidth < 1000
        assert chip.source
