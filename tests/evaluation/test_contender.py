import dataclasses

from dmphn_jax.evaluation.contender import Contender
from dmphn_jax.evaluation.methods import Blurry
from dmphn_jax.evaluation.results import key_of
from tests.support.evaluation import TINY

DATA = {"name": "gopro", "split": "test", "names": "0123456789abcdef"}


def test_kept_results_belong_to_all_they_depend_on():
    whole = Contender(Blurry(), "tiny", digest="a", config=TINY, stages=2)
    others = [
        Contender(Blurry(), "blurry input"),
        dataclasses.replace(whole, digest="b"),
        dataclasses.replace(whole, stages=1),
        dataclasses.replace(whole, ensemble=True),
        dataclasses.replace(whole, precision="bfloat16"),
    ]
    keys = {contender.key(DATA) for contender in [whole, *others]}
    keys.add(whole.key(DATA | {"blur": "blur_gamma"}))
    assert len(keys) == 7
    # Neither its name for people nor where the checkpoint lies.
    assert dataclasses.replace(whole, label="x", checkpoint="y").key(DATA) == whole.key(DATA)


def test_keys_stay_as_they_were():
    """Results files written before go on being used."""
    whole = Contender(Blurry(), "tiny", digest="a", config=TINY, stages=2, precision="bfloat16")
    want = key_of(data=DATA, digest="a", stages=2, options={"precision": "bfloat16"})
    assert whole.key(DATA) == want == "4c2d32746ba23afb"
    assert Contender(Blurry(), "blurry input").key(DATA) == "eb776ae006511eea"
