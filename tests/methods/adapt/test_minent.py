"""The entropy of each pixel, beside numpy in float64, and beside the entropy of rows."""

import math

import jax.numpy as jnp
import numpy as np
import pytest
from alignment_references import same_value_and_gradient

from jtl import alignments
from jtl.methods.views import View
from jtl.metrics.accumulate import total

MASK = np.array([True, False, True])


def maps(shape=(3, 2, 4, 5), seed=0):
    z = 3 * np.random.default_rng(seed).normal(size=shape)
    z[1] = np.nan
    return z


def term(alignment, z, mask: np.ndarray | None = MASK):
    views = {"target": View({}, jnp.asarray(z), None, None, mask, {})}
    return total(alignment({}, {}, views, None, 0)[0])


@pytest.mark.parametrize("eta", [None, 2.0, 0.7])
def test_value_and_gradient_are_those_of_the_formula(eta):
    def expected(z):
        e = np.exp(z[MASK])
        p = e / e.sum(-1, keepdims=True)
        h = -(p * np.log(p)).sum(-1) / np.log(5)
        return 0.3 * np.mean(h if eta is None else (h**2 + 0.001**2) ** eta)

    same_value_and_gradient(lambda z: term(alignments.minent(0.3, eta=eta), z), expected, maps())


def test_it_is_the_entropy_of_pixels_as_rows():
    z = np.nan_to_num(maps()).astype(np.float32)
    rows = term(alignments.entropy(), z.reshape(-1, 5), np.repeat(MASK, 8))
    np.testing.assert_allclose(term(alignments.minent(1.0), z) * math.log(5), rows, rtol=1e-6)


def test_the_ends_of_the_range_and_a_target_without_rows():
    unsure, sure = jnp.zeros((1, 2, 2, 3)), 500.0 * jnp.eye(3)[jnp.zeros((1, 2, 2), int)]
    for eta, least, most in ((None, 0.0, 1.0), (1.5, 1e-9, (1 + 1e-6) ** 1.5)):
        alignment = alignments.minent(1.0, eta=eta)
        np.testing.assert_allclose(term(alignment, unsure, None), most, rtol=1e-6)
        np.testing.assert_allclose(term(alignment, sure, None), least, rtol=1e-5, atol=1e-12)
        assert term(alignment, maps(), np.zeros(3, bool)) == 0


def test_what_does_not_fit_is_refused():
    for eta in (0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="eta="):
            alignments.minent(eta=eta)
    with pytest.raises(ValueError, match="minent: weight=-1"):
        alignments.minent(-1.0)
    for shape in ((3, 5), (3, 2, 2, 1)):
        with pytest.raises(ValueError, match=r"minent: the output of 'target' must be maps of logits .* and is \(3, "):
            term(alignments.minent(), np.zeros(shape, np.float32))
