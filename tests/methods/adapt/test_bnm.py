import jax
import jax.numpy as jnp
import numpy as np
import pytest
from alignment_references import domains, same_value_and_gradient

from jtl.methods.adapt.bnm import bnm_loss


def expected(z):
    p = np.exp(z - z.max(1, keepdims=True))
    return -np.linalg.svd(p / p.sum(1, keepdims=True), compute_uv=False).sum() / len(z)


@pytest.mark.parametrize("rows", [9, 4], ids=["tall", "wide"])
def test_value_and_gradient_are_those_of_numpys_singular_values(rows):
    z, _, mask, _ = domains(rows=(rows, 2))
    same_value_and_gradient(lambda z: bnm_loss(z, mask), lambda z: expected(z[mask]), z)


@pytest.mark.parametrize("z", [np.eye(3) * 5, np.zeros((4, 3)), np.eye(4, 3) * 200], ids=["equal", "rank 1", "sure"])
def test_the_gradient_is_finite_where_singular_values_are_equal_or_zero(z):
    value, gradient = jax.value_and_grad(bnm_loss)(jnp.asarray(z, jnp.float32))
    np.testing.assert_allclose(value, expected(z), rtol=1e-5)
    assert np.isfinite(gradient).all()


def test_no_gradient_leads_out_of_equal_rows_by_chance():
    """At rank one `U Vᵀ` of all vectors would hold arbitrary ones of the null space."""
    gradient = jax.grad(bnm_loss)(jnp.zeros((4, 3)))
    np.testing.assert_allclose(gradient, np.zeros((4, 3)), atol=1e-6)
