"""OSBP against its formula row by row, and the gradient that the features get."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from nets import batch, dense, largest_difference, top

from jtl.methods.adapt.adapt import adapt
from jtl.methods.adapt.osbp import osbp, undecided
from jtl.metrics.accumulate import total
from jtl.networks import network

NET = network(backbone=dense(8), head=top(4))


def domains():
    source, target = batch(n=12, masked=True), batch(n=16, seed=1, masked=True)
    return {"source": source, "target": {name: a for name, a in target.items() if name != "y"}}


def slopes(objective, params, rows, key):
    return jax.grad(lambda p: total(objective(p, {}, rows, key, 0)[0]))(params)


def test_values_and_gradients_are_those_of_the_formula():
    with jax.enable_x64():
        z = np.random.default_rng(0).normal(size=(5, 3)) * 3

        def by_hand(z, t):
            p = np.array([np.exp(row)[-1] / np.exp(row).sum() for row in z])
            return -t * np.log(p) - (1 - t) * np.log(1 - p)

        np.testing.assert_allclose(undecided(jnp.asarray(z), 0.3), by_hand(z, 0.3), rtol=1e-10)
        found = jax.grad(lambda z: undecided(z, 0.3).sum())(jnp.asarray(z))
        for i, j in np.ndindex(5, 3):
            nudge = np.zeros((5, 3))
            nudge[i, j] = 1e-6
            expected = (by_hand(z + nudge, 0.3) - by_hand(z - nudge, 0.3)).sum() / 2e-6
            np.testing.assert_allclose(found[i, j], expected, atol=1e-8)
    far = jnp.array([[500.0, 0.0, -500.0], [0.0, 0.0, 900.0]])
    assert np.isfinite(jax.grad(lambda z: undecided(z, 0.5).sum())(far)).all()


def test_an_offset_of_all_logits_changes_nothing():
    z = np.array([[2.0, 0.0, -1.0], [0.5, 0.25, 4.0]], np.float32)
    run = jax.value_and_grad(lambda z: undecided(z, 0.3).sum())
    for a, b in zip(run(jnp.asarray(z)), run(jnp.asarray(z + 2**20)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)


def test_the_head_learns_and_the_features_get_the_reverse(key):
    """Against the same term without reversal, written out: the head's gradient is equal, the backbone's −λ times it."""
    rows = domains()
    params = NET.init(key, rows["source"]["x"]).params
    terms, aux = adapt(NET, alignments=[osbp(NET, 0.5)])(params, {}, rows, key, 0)
    x, mask = rows["target"]["x"], rows["target"]["mask"]

    def plain(params):
        f = jax.nn.relu(x @ params["backbone"]["layer0"]["kernel"] + params["backbone"]["layer0"]["bias"][None])
        p = jax.nn.softmax(f @ params["head"]["out"]["kernel"] + params["head"]["out"]["bias"][None])[:, -1]
        return -(0.5 * jnp.log(p) + 0.5 * jnp.log(1 - p))[mask].mean()

    np.testing.assert_allclose(terms["unknown"].value, plain(params), rtol=1e-5)
    assert 0 <= float(aux.metrics["unknown_rate"].value) <= 1
    with_term = slopes(adapt(NET, alignments=[osbp(NET, 0.5)]), params, rows, key)
    found = jax.tree.map(jnp.subtract, with_term, slopes(adapt(NET), params, rows, key))
    expected = jax.grad(plain)(params)
    assert largest_difference(found["head"], expected["head"]) < 1e-6
    assert largest_difference(found["backbone"], jax.tree.map(lambda g: -0.5 * g, expected["backbone"])) < 1e-6
    assert float(jnp.abs(expected["backbone"]["layer0"]["kernel"]).max()) > 1e-3


def test_masked_rows_do_not_count(key):
    rows, objective = domains(), adapt(NET, alignments=[osbp(NET)])
    params = NET.init(key, rows["source"]["x"]).params
    dirty = {n: v | {"x": np.where(v["mask"][:, None], v["x"], np.nan)} for n, v in rows.items()}
    assert largest_difference(slopes(objective, params, dirty, key), slopes(objective, params, rows, key)) < 1e-6
    rows["target"]["mask"] = np.zeros(16, bool)
    assert largest_difference(slopes(objective, params, rows, key), slopes(adapt(NET), params, rows, key)) < 1e-7


def test_what_does_not_fit_is_refused(key):
    with pytest.raises(ValueError, match="threshold=1"):
        osbp(NET, threshold=1.0)
    with pytest.raises(ValueError, match=r"heads \['a', 'b'\]"):
        osbp(network(backbone=dense(8), a=top(2), b=top(2)))
    one, rows = network(backbone=dense(8), head=top(1)), domains()
    params = one.init(key, rows["source"]["x"]).params
    objective = adapt(one, lambda z, y: z[:, 0], alignments=[osbp(one)], metrics={})
    with pytest.raises(ValueError, match=r"the head returns \(16, 1\)"):
        objective(params, {}, rows, key, 0)
