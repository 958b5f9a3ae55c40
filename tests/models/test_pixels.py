import jax.numpy as jnp
import numpy as np
import pytest

from dmphn_jax.models.pixels import from_network, to_network


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_every_stored_value_comes_back(dtype):
    values = jnp.arange(np.iinfo(dtype).max + 1).astype(dtype)
    x = to_network(values)
    assert x.dtype == jnp.float32
    assert (x.min(), x.max()) == (-0.5, 0.5)
    np.testing.assert_array_equal(from_network(x, dtype), values)


def test_values_are_rounded_to_nearest_and_clipped():
    x = jnp.asarray([-7.0, 7.0, 100.4 / 255 - 0.5, 100.6 / 255 - 0.5])
    np.testing.assert_array_equal(from_network(x), np.uint8([0, 255, 100, 101]))
