import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtl.methods.added import added
from jtl.methods.terms import own_squared_distances, row_features
from jtl.methods.views import View
from jtl.typing import Aux


def test_second_derivatives_are_those_of_all_pairs():
    """Forward over reverse and reverse over reverse, beside distances as sums of squared differences; in float64."""
    with jax.enable_x64(True):
        f, v, w = (jnp.asarray(np.random.default_rng(i).normal(size=(6, 3 if i < 2 else 6))) for i in range(3))

        def ours(f):
            return (jnp.exp(-own_squared_distances(f)) * w).sum()

        def pairs(f):
            return (jnp.exp(-((f[:, None] - f[None]) ** 2).sum(2)) * w).sum()

        for of in (
            lambda g: jax.jvp(jax.grad(g), (f,), (v,))[1],
            lambda g: jax.grad(lambda f: (jax.grad(g)(f) * v).sum())(f),
        ):
            np.testing.assert_allclose(jax.jit(lambda of=of: of(ours))(), jax.jit(lambda of=of: of(pairs))(), rtol=1e-9)


def test_a_feature_of_another_rank_is_named():
    views = {"source": View({"map": jnp.zeros((2, 3, 3, 4))}, None, None, None, None, {})}
    with pytest.raises(ValueError, match=r"mine: feature='map' of 'source' must be \[batch, width\]; .*\(2, 3, 3, 4\)"):
        row_features(views, "source", "map", "mine")


def test_terms_draw_their_own_and_see_the_statistics_of_the_one_before(key):
    def term(name):
        def run(params, stats, views, key, step):
            seen = {**stats, "count": stats["count"] + 1}
            return {name: jax.random.normal(key, ())}, Aux(seen, {f"{name}_count": seen["count"]})

        return run

    loss, aux = added([term("a"), term("b")], "term").to({}, Aux({"count": 0}, {}, {"output": 7}), {}, {}, key, 0)
    assert float(loss["a"].value) != float(loss["b"].value)
    assert aux == ({"count": 2}, {"a_count": 1, "b_count": 2}, {"output": 7})
