"""DARE-GRAM against its formula with numpy's pseudo-inverse, finite differences, and what holds for any features."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from alignment_references import domains, same_value_and_gradient

from jtl import alignments
from jtl.methods.adapt.daregram import daregram_loss

WEIGHTS = {"angle": 0.7, "scale": 0.3}
ANGLE = jax.jit(lambda s, t: daregram_loss(s, t, angle=1.0, scale=0.0))
GRAD = jax.jit(jax.value_and_grad(lambda s, t: daregram_loss(s, t, **WEIGHTS), argnums=(0, 1)))


def by_numpy(s, t, threshold, angle=0.7, scale=0.3):
    """The authors' steps, and k; G of unequal numbers of rows is scaled to their mean number."""
    number, grams, values, index = (len(s) + len(t)) / 2, [], [], []
    for f in (s, t):
        a = np.concatenate([np.ones((len(f), 1)), f], 1)
        grams.append(a.T @ a * number / len(f))
        values.append(np.linalg.svd(grams[-1], compute_uv=False))
        share = np.cumsum(values[-1]) / values[-1].sum()
        index.append(np.flatnonzero(share <= max(threshold, share[1]))[-1])
    k = max(index)
    a, b = (np.linalg.pinv(g, rcond=v[k] / v[0] * (1 + 1e-6)) for g, v in zip(grams, values, strict=True))
    cos = (a * b).sum(0) / np.linalg.norm(a, axis=0) / np.linalg.norm(b, axis=0)
    return angle * np.abs(1 - cos).mean() + scale * np.linalg.norm(values[0][:k] - values[1][:k]) / k, k


@pytest.mark.parametrize(
    ("rows", "width", "threshold", "k"), [((7, 9), 12, 0.95, 4), ((9, 5), 3, 0.995, 2), ((7, 9), 4, 0.3, 1)]
)
def test_value_and_gradient_are_those_of_the_formula(rows, width, threshold, k):
    fs, ft, ms, mt = domains(rows=rows, width=width)
    assert by_numpy(fs[ms], ft[mt], threshold)[1] == k
    same_value_and_gradient(
        lambda s, t: daregram_loss(s, t, ms, mt, threshold=threshold, **WEIGHTS),
        lambda s, t: by_numpy(s[ms], t[mt], threshold)[0],
        fs,
        ft,
    )


def test_equal_and_repeated_rows_have_neither_value_nor_gradient():
    s = np.random.default_rng(2).normal(size=(5, 8)).astype(np.float32)
    s[:, 3] = 0  # a unit that is off
    for same in (s, s[::-1], np.repeat(s, 2, 0)):
        value, gradient = GRAD(s, same)
        assert value < 1e-9
        assert max(np.abs(g).max() for g in gradient) < 1e-5


def test_small_angles_have_their_digits():
    """`1 − cos` of float32 has none of an angle of 1e-4."""
    s = np.random.default_rng(2).normal(size=(8, 6)).astype(np.float32)
    t = (s + 1e-4 * np.random.default_rng(3).normal(size=s.shape)).astype(np.float32)
    wanted, _ = by_numpy(s.astype(np.float64), t.astype(np.float64), 0.9, 1.0, 0.0)
    assert 1e-10 < wanted < 1e-7
    np.testing.assert_allclose(ANGLE(s, t), wanted, rtol=2e-2)


@pytest.mark.parametrize("s", [np.eye(3, 6), np.ones((3, 6)), np.zeros((3, 6)), 1e6 * np.eye(3, 6, 1)])
@pytest.mark.parametrize("t", [np.eye(3, 6), np.zeros((3, 6))])
def test_equal_eigenvalues_have_finite_gradients(s, t):
    value, g = GRAD(jnp.asarray(s, jnp.float32), jnp.asarray(t, jnp.float32))
    assert np.isfinite(value)
    assert all(np.isfinite(a).all() for a in g)


def test_a_unit_that_is_off_in_one_domain_has_the_cosine_zero():
    off = np.random.default_rng(2).normal(size=(8, 6)).astype(np.float32)
    off[:, 5] = 0
    more = off.copy()
    more[:, 5] = 1e-3
    np.testing.assert_allclose(ANGLE(off, more), 1 / 7, rtol=1e-3)  # of seven columns with the intercept's


def test_numbers_out_of_range_are_refused():
    with pytest.raises(ValueError, match=r"angle=-1\.0"):
        alignments.daregram(angle=-1.0)
    with pytest.raises(ValueError, match="scale=inf"):
        alignments.daregram(scale=float("inf"))
    with pytest.raises(ValueError, match=r"threshold=1\.0"):
        alignments.daregram(threshold=1.0)
