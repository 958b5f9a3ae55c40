"""SavedModels, where TensorFlow is installed; it is no part of the environment of the tests."""

import importlib.util
import json

import pytest

from dmphn_jax.errors import UserError
from dmphn_jax.export import writing
from dmphn_jax.export.options import Options, card
from tests.export.models import SIZES, blurry, largest, network

HAS_TENSORFLOW = importlib.util.find_spec("tensorflow") is not None
needs_tensorflow = pytest.mark.skipif(not HAS_TENSORFLOW, reason="TensorFlow is not installed")


def written(folder, name, **options):
    config, params = network(name)
    writing.write(folder / "saved", params, config, "a digest", Options("saved", **options))
    return folder / "saved"


@needs_tensorflow
@pytest.mark.parametrize("name", ["dmphn_1_2_4", "dmphn_1_2_ws", "stack2", "vmphn_1_2", "dmsn_2"])
@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_one_folder_gives_the_checkpoints_pictures_at_every_size(
    name, precision, tmp_path, expected
):
    import tensorflow as tf

    model = tf.saved_model.load(str(written(tmp_path, name, precision=precision)))
    run = model.signatures["serving_default"]
    for size, sharp in zip(SIZES, expected(name), strict=True):
        image = run(blurry=tf.constant(blurry(size)))["sharp"].numpy()
        assert largest(image, sharp) <= (1 if precision == "float32" else 2)


@needs_tensorflow
def test_the_folder_tells_what_it_is_and_holds_the_weights_once(tmp_path):
    import jax

    folder = written(tmp_path, "stack2")
    config, params = network("stack2")
    found = json.loads((folder / "assets.extra" / "dmphn.json").read_text())
    assert found == card(config, "a digest", Options("saved"))
    weights = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    assert (folder / "saved_model.pb").stat().st_size < weights + 400_000
    assert {op.type for op in _graph(folder).get_operations()} & {"XlaCallModule"} == set()


def _graph(folder):
    import tensorflow as tf

    return tf.saved_model.load(str(folder)).signatures["serving_default"].graph


@pytest.mark.skipif(HAS_TENSORFLOW, reason="TensorFlow is installed")
def test_without_tensorflow_it_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"needs tensorflow: pip install .*export-saved"):
        written(tmp_path, "dmphn_1_2")
    assert list(tmp_path.iterdir()) == []
