"""MixStyle against numpy, row by row, and where it must do nothing."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from nets import dense

from jtl import alignments
from jtl.methods.adapt.mixstyle import restyled
from jtl.model import from_linen


class Maps(nn.Module):
    @nn.compact
    def __call__(self, x, train: bool):
        for i in (1, 2):
            x = nn.relu(nn.Conv(2, (3, 3), name=f"stage{i}")(x))
        return {"pooled": x.mean((1, 2))}


KEY = jax.random.key(0)
X = np.random.default_rng(0).normal(size=(3, 4, 4, 1)).astype(np.float32)
BODY = from_linen(Maps())
VARIABLES = BODY.init(KEY, X)


def test_statistics_are_mixed_row_by_row():
    f = np.random.default_rng(1).normal(size=(3, 2, 4, 2)) * np.array([1, 5, 9])[:, None, None, None]
    share, order = np.array([0.3, 0.9, 0.5]), np.array([2, 0, 1])
    found = restyled(jnp.asarray(f, jnp.float32), jnp.asarray(share), jnp.asarray(order))
    for i in range(3):
        for c in range(2):
            a, b = f[i, :, :, c], f[order[i], :, :, c]
            (m, s), (n, t) = ((v.mean(), np.sqrt(v.var(ddof=1) + 1e-6)) for v in (a, b))
            wanted = (a - m) / s * (share[i] * s + (1 - share[i]) * t) + share[i] * m + (1 - share[i]) * n
            np.testing.assert_allclose(found[i, :, :, c], wanted, rtol=2e-5, atol=2e-5)


def test_the_statistics_have_no_gradient():
    """So the gradient of a sum is the scale, γ / σ, for each number; a constant map has a finite one."""
    f = jnp.asarray(np.random.default_rng(1).normal(size=(2, 2, 3, 1)), jnp.float32)
    share, order = jnp.array([0.5, 1.0]), jnp.array([1, 0])
    g = jax.grad(lambda f: restyled(f, share, order).sum())(f)
    s = np.sqrt(np.asarray(f).var((1, 2, 3), ddof=1) + 1e-6)
    np.testing.assert_allclose(g[0], np.full((2, 3, 1), (s[0] + s[1]) / 2 / s[0]), rtol=1e-5)
    np.testing.assert_allclose(g[1], np.ones((2, 3, 1)), rtol=1e-5)
    assert jnp.isfinite(jax.grad(lambda f: restyled(f, share, order).sum())(jnp.zeros_like(f))).all()


def test_it_acts_in_training_alone():
    mixed = alignments.mixstyle(BODY, "stage2", probability=1.0)
    drawn = jax.jit(lambda x, key: mixed.apply(VARIABLES, x, train=True, key=key)[0]["pooled"])

    def run(model, train, key=None):
        return model.apply(VARIABLES, X, train=train, key=key)[0]["pooled"]

    plain = run(BODY, train=True, key=KEY)
    np.testing.assert_array_equal(run(mixed, train=False), run(BODY, train=False))
    np.testing.assert_array_equal(run(mixed, train=True, key=None), plain)
    assert np.abs(drawn(X, KEY) - plain).max() > 1e-3
    np.testing.assert_array_equal(drawn(X, KEY), drawn(X, KEY))
    never = alignments.mixstyle(BODY, "stage2", probability=0.0)
    found = jax.jit(lambda x, key: never.apply(VARIABLES, x, train=True, key=key)[0]["pooled"])(X, KEY)
    np.testing.assert_allclose(found, plain, rtol=1e-6)


def test_what_does_not_fit_is_refused():
    for given, message in (({"alpha": 0.0}, "alpha=0"), ({"probability": 1.5}, "probability=1.5")):
        with pytest.raises(ValueError, match=message):
            alignments.mixstyle(BODY, "stage1", **given)
    with pytest.raises(ValueError, match="no module's path matches 'block9'"):
        alignments.mixstyle(BODY, "block9").apply(VARIABLES, X, train=True, key=KEY)
    vector, x = dense(4), X[:, 0, :, 0]
    with pytest.raises(ValueError, match=r"mixstyle: 'layer0' gives \(3, 4\)"):
        alignments.mixstyle(vector, "layer0").apply(vector.init(KEY, x), x, train=True, key=KEY)
