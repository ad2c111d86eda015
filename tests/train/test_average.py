import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtl.model import Variables, from_linen
from jtl.nn.batch_norm import BatchNorm
from jtl.train.average import average_add, average_finish, average_start, refreshed_statistics


def test_the_average_is_numpys_mean_and_keeps_types_and_other_parameters():
    draws = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    average = average_start({"w": jnp.zeros(3, jnp.bfloat16)})
    add = jax.jit(average_add)
    for row in draws:
        average = add(average, {"w": jnp.asarray(row, jnp.bfloat16)})
    kept = np.asarray(draws.astype(jnp.bfloat16), np.float32)
    np.testing.assert_allclose(average.mean["w"], kept.mean(0), rtol=1e-6)
    given = Variables({"w": jnp.zeros(3, jnp.bfloat16), "frozen": jnp.ones(2)}, {"n": jnp.ones(())})
    found = average_finish(average, given)
    assert found.params["w"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(found.params["frozen"], 1)
    with pytest.raises(ValueError, match="nothing was added"):
        average_finish(average_start({"w": jnp.zeros(3)}), given)
    with pytest.raises(ValueError, match="holds 'w'"):
        average_finish(average, Variables({"v": jnp.zeros(3)}, {}))


class Body(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        x = BatchNorm(momentum=0.3, name="norm")(nn.Dense(4, name="dense")(x), train)
        return BatchNorm(name="still")(x, False)


def test_statistics_are_the_mean_of_those_of_the_batches():
    """What torch's update_bn computes: momentum None is the cumulative mean over batches."""
    torch = pytest.importorskip("torch")
    body = from_linen(Body())
    x = np.random.default_rng(1).normal(size=(3, 8, 5)).astype(np.float32)
    start = body.init(jax.random.key(0), x[0])
    still = {"mean": jnp.full(4, 3.0), "var": jnp.full(4, 2.0)}
    start = start._replace(stats={**start.stats, "still": still})
    moved = refreshed_statistics(body, start, list(x), jax.random.key(1)).stats
    jax.tree.map(np.testing.assert_array_equal, moved["still"], still)
    found = moved["norm"]
    norm = torch.nn.BatchNorm1d(4, momentum=None)
    for rows in x:
        norm(torch.tensor(np.asarray(rows @ start.params["dense"]["kernel"] + start.params["dense"]["bias"][None])))
    np.testing.assert_allclose(found["mean"], norm.running_mean, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found["var"], norm.running_var, rtol=1e-4)
    with pytest.raises(ValueError, match="at least one batch"):
        refreshed_statistics(body, start, [], jax.random.key(1))
    with pytest.raises(ValueError, match="no running statistics"):
        refreshed_statistics(body, Variables(start.params, {}), [x[0]], jax.random.key(1))


def test_statistics_of_large_inputs_keep_their_digits():
    """Beside a variance of 1e8 the momentum must not cancel: the old statistics were kept."""
    body = from_linen(Body())
    x = 1e4 * np.random.default_rng(2).normal(size=(64, 5)).astype(np.float32)
    start = body.init(jax.random.key(0), x)
    found = refreshed_statistics(body, start, [x], jax.random.key(1)).stats["norm"]
    wide = x.astype(np.float64) @ np.asarray(start.params["dense"]["kernel"], np.float64)
    np.testing.assert_allclose(found["mean"], wide.mean(0), rtol=1e-4, atol=1e-2)
    np.testing.assert_allclose(found["var"], wide.var(0, ddof=1), rtol=1e-4)
