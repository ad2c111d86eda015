import jax
import jax.numpy as jnp
import numpy as np
import pytest
from alignment_references import domains

from jtl.methods.adapt.afn import afn, afn_loss


@pytest.mark.parametrize("size", [1.0, 1e-25, 1e25], ids=["ordinary", "small", "large"])
def test_the_value_is_constant_and_the_gradient_points_outwards(size):
    f, _, mask, _ = domains()
    f = (f * size).astype(np.float32)
    rows = afn_loss(f, mask, growth=0.5)
    np.testing.assert_allclose(rows, np.full(7, 0.25), rtol=1e-6)
    found = jax.grad(lambda f: afn_loss(f, mask, growth=0.5).sum())(jnp.asarray(f))
    wide = np.nan_to_num(f.astype(np.float64))
    norms = np.linalg.norm(wide, axis=1, keepdims=True)
    np.testing.assert_allclose(
        found, np.where(mask[:, None], -2 * 0.5 * wide / np.where(mask[:, None], norms, 1), 0), rtol=1e-5
    )


def test_the_gradient_is_that_of_the_distance_to_a_norm_held_fixed():
    with jax.enable_x64(True):
        f = jnp.asarray(np.random.default_rng(0).normal(size=(5, 3)))
        wanted = np.linalg.norm(f, axis=1) + 1.0
        found = np.asarray(jax.grad(lambda f: afn_loss(f).sum())(f))
    for i in np.ndindex(5, 3):
        e = np.zeros((5, 3))
        e[i] = 1e-6
        up, down = (((np.linalg.norm(np.asarray(f) + s * e, axis=1) - wanted) ** 2).sum() for s in (1, -1))
        np.testing.assert_allclose(found[i], (up - down) / 2e-6, atol=1e-8)


def test_a_row_of_zeros_has_no_direction_to_grow_in():
    np.testing.assert_array_equal(jax.grad(lambda f: afn_loss(f).sum())(jnp.zeros((2, 3))), np.zeros((2, 3)))


def test_bad_input_raises():
    with pytest.raises(ValueError, match=r"growth=0\.0"):
        afn(growth=0.0)
