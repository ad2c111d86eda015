import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import entropy as scipys

from jtl.metrics.certainty import diversity, entropy, mean_prediction

Z = np.random.default_rng(0).normal(size=(7, 5)).astype(np.float32) * 3
P = np.exp(Z) / np.exp(Z).sum(1, keepdims=True)


def test_entropy_is_scipys():
    np.testing.assert_allclose(entropy(jnp.asarray(Z)), scipys(P, axis=1), rtol=1e-4)


def test_a_certain_row_has_entropy_zero_and_a_finite_gradient():
    z = jnp.array([[1e4, 0.0, -1e4]])
    assert float(entropy(z)[0]) == 0
    assert np.isfinite(jax.grad(lambda a: entropy(a).sum())(z)).all()


def test_a_class_that_is_ruled_out_adds_nothing():
    """0 log 0 = 0: the entropy and its gradient are those of the other classes."""
    ruled = np.concatenate([Z, np.full((7, 1), -np.inf, np.float32)], 1)
    np.testing.assert_allclose(entropy(jnp.asarray(ruled)), scipys(P, axis=1), rtol=1e-4)
    slopes = [jax.grad(lambda a: entropy(a).sum())(jnp.asarray(z)) for z in (ruled, Z)]
    np.testing.assert_allclose(slopes[0], np.pad(slopes[1], ((0, 0), (0, 1))), atol=1e-6)


def test_diversity_is_the_entropy_of_the_mean():
    np.testing.assert_allclose(diversity(jnp.asarray(Z)), scipys(P.mean(0)), rtol=1e-5)


def test_masked_rows_do_not_count():
    z = np.concatenate([Z, np.full((2, 5), np.nan, np.float32)])
    mask = np.arange(9) < 7
    np.testing.assert_allclose(mean_prediction(jnp.asarray(z), jnp.asarray(mask)), P.mean(0), rtol=1e-5)
    grads = jax.grad(lambda a: diversity(a, jnp.asarray(mask)))(jnp.asarray(z))
    expected = jax.grad(diversity)(jnp.asarray(Z))
    np.testing.assert_allclose(grads[:7], expected, atol=1e-6)
    assert (np.asarray(grads[7:]) == 0).all()


def test_no_row_gives_zero():
    nothing = jnp.zeros(7, bool)
    assert float(diversity(jnp.asarray(Z), nothing)) == 0
    np.testing.assert_array_equal(mean_prediction(jnp.asarray(Z), nothing), 0)
    assert np.isfinite(jax.grad(lambda a: diversity(a, nothing))(jnp.asarray(Z))).all()
