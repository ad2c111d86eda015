import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtl.model import Variables
from jtl.train.surgical import relative_gradients
from jtl.typing import Aux


def loss(params, stats, batch, key, step):
    value = (batch * params["a"]["w"]).sum() + 3 * params["b"]["w"].sum() + params["rest"]["w"].sum()
    return value, Aux(stats)


START = Variables({"a": {"w": jnp.array([3.0, 4.0])}, "b": {"w": jnp.array([0.5])}, "rest": {"w": jnp.ones(1)}}, {})


def test_the_ratio_is_the_mean_over_batches_and_the_largest_comes_first():
    batches = [jnp.array([6.0, 8.0]), jnp.array([0.0, 5.0])]
    found = relative_gradients(loss, START, batches, ["a/.*", "b/.*"], jax.random.key(0))
    assert list(found) == ["b/.*", "a/.*"]
    np.testing.assert_allclose(list(found.values()), [6.0, (10 / 5 + 5 / 5) / 2], rtol=1e-6)


def test_bad_input_raises():
    batch = [jnp.ones(2)]
    with pytest.raises(ValueError, match="parts is empty"):
        relative_gradients(loss, START, batch, [], jax.random.key(0))
    with pytest.raises(ValueError, match="matches no parameter"):
        relative_gradients(loss, START, batch, ["c/.*"], jax.random.key(0))
    with pytest.raises(ValueError, match="at least one batch"):
        relative_gradients(loss, START, [], ["a/.*"], jax.random.key(0))
    zero = START._replace(params={**START.params, "a": {"w": jnp.zeros(2)}})
    with pytest.raises(ValueError, match="are all 0"):
        relative_gradients(loss, zero, batch, ["a/.*"], jax.random.key(0))
