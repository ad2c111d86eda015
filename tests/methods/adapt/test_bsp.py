import jax
import jax.numpy as jnp
import numpy as np
import pytest
from alignment_references import domains, same_value_and_gradient

from jtl.methods.adapt.bsp import bsp, largest


@pytest.mark.parametrize("k", [1, 2, 99])
def test_value_and_gradient_are_those_of_numpys_singular_values(k):
    f, _, mask, _ = domains(rows=(9, 2))

    def expected(f):
        return (np.linalg.svd(f[mask], compute_uv=False)[:k] ** 2).sum()

    same_value_and_gradient(lambda f: largest(f, mask, k), expected, f)


@pytest.mark.parametrize("f", [np.eye(4), np.zeros((4, 3)), np.ones((4, 3))], ids=["equal", "zero", "rank one"])
def test_the_gradient_is_finite_at_equal_values(f):
    found = jax.grad(largest)(jnp.asarray(f, jnp.float32))
    np.testing.assert_allclose(jnp.linalg.norm(found), 2 * np.linalg.norm(f, 2), atol=1e-4)  # 2 σ u vᵀ


def test_bad_input_raises():
    with pytest.raises(ValueError, match="k=0"):
        bsp(k=0)
