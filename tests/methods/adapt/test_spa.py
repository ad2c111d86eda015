"""SPA against the eigenvalues of random-walk Laplacians by scipy and numpy, and graphs whose spectra are known."""

from inspect import unwrap

import jax
import numpy as np
import pytest
from alignment_references import domains, same_value_and_gradient
from scipy.spatial.distance import cdist

from jtl.methods.adapt.spa import spa, spa_loss


def spectrum(f, similarity, width):
    """Of I − D⁻¹ A, which is not symmetric."""
    if similarity == "cosine":
        a = np.maximum(1 - cdist(f, f, "cosine"), 0)
    else:
        a = np.exp(-cdist(f, f) / (2 * width**2)) - np.eye(len(f))
    found = np.linalg.eigvals(np.eye(len(f)) - a / a.sum(1, keepdims=True))
    assert np.abs(found.imag).max() < 1e-9
    return np.sort(found.real)


@pytest.mark.parametrize("similarity", ["cosine", "exponential"])
@pytest.mark.parametrize("rows", [(8, 8), (7, 9)], ids=["as many rows", "others"])
def test_value_and_gradient_are_those_of_numpys_eigenvalues(similarity, rows):
    fs, ft, ms, mt = domains(rows=rows)

    def expected(fs, ft):
        a, b = (spectrum(f[m], similarity, 0.9) for f, m in ((fs, ms), (ft, mt)))
        if len(a) == len(b):
            return np.linalg.norm(a - b)
        fine = np.repeat(a, len(b)) - np.repeat(b, len(a))  # both quantile functions on n·m equal pieces
        return np.sqrt(min(len(a), len(b)) * (fine**2).mean())

    ours = lambda a, b: spa_loss(a, b, ms, mt, similarity=similarity, width=0.9)  # noqa: E731
    same_value_and_gradient(ours, expected, fs, ft)


def test_similarities_may_be_too_small_for_float32():
    """Four rows equally far apart have λ = 0, 4/3, 4/3, 4/3; two distant pairs have 0, 0, 2, 2."""
    even, pairs = 500 * np.eye(4, dtype=np.float32), np.zeros((4, 4), np.float32)
    pairs[:, 0] = 0, 600, 9000, 9600
    assert not np.exp(np.float32(-600 / 4.5))
    value, slopes = jax.jit(jax.value_and_grad(lambda a, b: spa_loss(a, b, similarity="exponential"), (0, 1)))(
        even, pairs
    )
    np.testing.assert_allclose(value, np.sqrt(24 / 9), rtol=1e-5)
    assert all(np.isfinite(slope).all() for slope in slopes)


def test_graphs_with_known_spectra():
    """k groups of equal rows, in directions that are orthogonal, are k parts: λ is 0 k times, and 1 for all others."""
    f, run = np.eye(4, dtype=np.float32), jax.jit(spa_loss)
    for k, others in ((1, 3), (2, 4)):
        found = run(f[np.arange(12) % k], 7 * f[np.arange(12) % others])
        np.testing.assert_allclose(found, np.sqrt(others - k), rtol=1e-6)


@pytest.mark.parametrize("similarity", ["cosine", "exponential"])
def test_turned_domains_are_equal_and_the_gradient_is_finite_anywhere(similarity):
    draw = np.random.default_rng(0)
    f = np.abs(draw.normal(size=(9, 4))).astype(np.float32)
    turn = np.linalg.qr(draw.normal(size=(4, 4)))[0].astype(np.float32)
    run = jax.jit(jax.value_and_grad(lambda a, b: spa_loss(a, b, similarity=similarity), (0, 1)))
    other = f[draw.permutation(9)] @ turn
    value, slopes = run(f, other)
    assert float(value) < 1e-5
    assert all(np.isfinite(slope).all() for slope in slopes)
    assert float(run(f, f)[0]) == 0
    assert not any(np.asarray(slope).any() for slope in run(f, f)[1])
    for bad in (np.zeros_like(f), np.ones_like(f), -f, 1e4 * f):
        value, slopes = run(f, bad)
        assert np.isfinite(value)
        assert all(np.isfinite(slope).all() for slope in slopes)


def test_bad_input_raises():
    for make, message in (
        (lambda: spa(-1.0), "spa: weight=-1.0"),
        (lambda: spa(width=0.0), "width=0.0"),
        (lambda: unwrap(spa)(similarity="gauss"), "similarity='gauss'"),
    ):
        with pytest.raises(ValueError, match=message):
            make()
