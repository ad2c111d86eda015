"""Floats of 0 to 255 are not taken for images in [0, 1]."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtl.data.augment import normalise

APPLY = normalise((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def test_floats_of_another_scale_are_refused_where_values_are_known():
    with pytest.raises(ValueError, match=r"float images reach 255: give floats in \[0, 1\]"):
        APPLY(None, np.full((1, 2, 2, 3), 255.0, np.float32))


def test_they_are_nan_where_values_are_not_known_yet():
    found = jax.jit(lambda x: APPLY(None, x))(jnp.full((1, 2, 2, 3), 255.0))
    assert np.isnan(found).all()


@pytest.mark.parametrize("run", [lambda f: f, jax.jit], ids=["plain", "jit"])
def test_noise_around_the_range_and_integers_pass(run):
    apply = run(lambda x: APPLY(None, x))
    np.testing.assert_allclose(apply(jnp.full((1, 2, 2, 3), -0.25)), -3.0, rtol=1e-6)
    np.testing.assert_allclose(apply(jnp.full((1, 2, 2, 3), 1.5)), 4.0, rtol=1e-6)
    np.testing.assert_allclose(apply(jnp.full((1, 2, 2, 3), 255, jnp.uint8)), 2.0, rtol=1e-6)
