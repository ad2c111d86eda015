import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtl.metrics import accumulate
from jtl.metrics.accumulate import Mean, mean


def test_masked_mean_is_the_mean_of_what_is_kept():
    values, mask = np.array([1.0, 2.0, np.nan, 5.0], np.float32), np.array([True, True, False, True])
    found = mean(values, mask)
    assert float(found.total) == 8.0
    assert float(found.count) == 3.0
    assert float(found.value) == np.float32(8 / 3)


def test_parts_add_up_to_the_whole():
    values = np.random.default_rng(0).normal(size=(10, 3)).astype(np.float32)
    mask = np.arange(10) < 7
    parts = [mean(values[i : i + 4], mask[i : i + 4]) for i in range(0, 10, 4)]
    total, count = sum(p.total for p in parts), sum(p.count for p in parts)
    np.testing.assert_allclose(Mean(total, count).value, values[:7].mean(), rtol=1e-6)


def test_nothing_counted_is_zero_and_not_nan():
    value, slope = jax.value_and_grad(lambda values: mean(values, np.zeros(3, bool)).value)(jnp.ones(3))
    assert float(value) == 0.0
    np.testing.assert_array_equal(slope, 0)


def test_low_precision_is_summed_in_float32():
    assert float(mean(jnp.full(4096, 1.0, jnp.bfloat16)).total) == 4096.0


def test_errors_name_the_shapes():
    with pytest.raises(ValueError, match=r"mask of shape \(3,\) does not fit values of shape \(4,\)"):
        mean(np.ones(4), np.ones(3, bool))
    with pytest.raises(ValueError, match=r"of shape \(2,\)"):
        accumulate.as_terms(jnp.ones(2))


@pytest.mark.parametrize("shape", [(5, 5), (5, 1), (1, 5), (4,), (), (5, 3, 2)])
@pytest.mark.parametrize("y", [np.zeros((5, 3)), {"a": np.zeros((5, 3)), "b": np.zeros(5)}], ids=["array", "tree"])
def test_only_a_value_per_row_or_element_is_averaged(shape, y):
    """A confusion matrix became its mean in silence, and so did the mean of a batch with padded rows."""
    with pytest.raises(ValueError, match=rf"'own' has the shape {re.escape(str(shape))}.*jtl\.metrics\.confusion"):
        accumulate.measure(lambda z, y: jnp.zeros(shape), None, y, name="own")
    for right in ((5,), (5, 3)):
        assert float(accumulate.measure(lambda z, y, s=right: jnp.ones(s), None, y, np.arange(5) > 2).value) == 1


def test_a_loss_is_the_sum_of_its_terms():
    loss = {"a": Mean(jnp.asarray(6.0), jnp.asarray(2.0)), "b": jnp.asarray(0.5), "c": mean(np.ones(4)).scale(-2.0)}
    assert float(accumulate.total(loss)) == 3.0 + 0.5 - 2.0


def test_the_name_of_the_total_is_no_terms_and_no_metrics():
    accumulate.distinct({"loss": 1.0}, {"error": 2.0})
    with pytest.raises(ValueError, match=r"'loss' is the name of the total: call this term of \['loss', 'penalty'\]"):
        accumulate.distinct({"loss": 1.0, "penalty": 2.0}, {})
    with pytest.raises(ValueError, match=r"'loss' is the name of the total: call this metric of \['loss'\]"):
        accumulate.distinct({"penalty": 2.0}, {"loss": 1.0})
