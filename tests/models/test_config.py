"""A model's configuration: what it takes, and that what files claim is bounded."""

import pytest

from dmphn_jax.models import ModelConfig, zoo


def test_every_model_of_the_zoo_and_the_largest_are_taken():
    for entry in zoo.ZOO.values():
        assert ModelConfig.from_dict(entry.config.to_dict()) == entry.config
    ModelConfig("dmphn", "1-2-4-8", stages=64)
    ModelConfig("vmphn", "16-16-16-16-16-16-16-16", stages=16)
    ModelConfig(width=1024)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"stages": 3000}, "stages 3000: at most 64"),
        ({"stages": 10**9}, "stages 1000000000: at most 64"),
        ({"stages": 1e9}, "stages 1000000000.0: a positive integer"),
        ({"stages": 10**4000}, "at most 64"),
        ({"stages": True}, "stages True: a positive integer"),
        ({"width": 100_000_000}, "width 100000000: at most 1024"),
        ({"hierarchy": "-".join("1" * 50_000)}, "at most 8 levels"),
        ({"hierarchy": "1-2-3"}, "levels of 1, 2, 4, 8 or 16 patches"),
        ({"hierarchy": "x" * 100_000}, "levels of 1, 2"),
        ({"hierarchy": 3}, "hierarchy 3: a text"),
        ({"family": ["dmphn"] * 1000}, "one of dmphn, vmphn, dmsn"),
        ({"family": "dmsn", "hierarchy": "7"}, "1 to 6 scales"),
        ({"hierarchy": "1-2-4-8-16", "stages": 64}, "at most 256 pairs in all"),
        ({"weight_sharing": True, "hierarchy": "1-2-4-8-16", "stages": 64}, "at most 256"),
        ({"weight_sharing": "no"}, "weight_sharing 'no': true or false"),
        ({"global_skip": 1}, "global_skip 1: true or false"),
        ({"c" * 10_000: 1}, "unknown model field"),
    ],
)
def test_no_model_has_such_fields(fields, message):
    with pytest.raises(ValueError, match=message) as error:
        ModelConfig.from_dict(fields)
    assert len(str(error.value)) < 160
