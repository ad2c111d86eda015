"""MDD against its formula written row by row, and its golden target term."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from nets import largest_difference, top

from jtl.methods.adapt.mdd import disagreement, mdd
from jtl.methods.adapt.views import View
from jtl.metrics.accumulate import total

GOLDEN = Path(__file__).parents[2] / "golden.json"


def views(n=(6, 9)):
    draw = np.random.default_rng(0)
    return {
        name: View(
            {"pooled": jnp.asarray(draw.normal(size=(rows, 4)))}, jnp.asarray(draw.normal(size=(rows, 3))),
            None, None, draw.random(rows) < 0.7, {},
        )
        for name, rows in zip(("source", "target"), n, strict=True)
    }  # fmt: skip


def test_the_target_term_has_its_golden_value():
    """p = .9 softmax(z) + .1/3 with z = sin(1.3 i + .7 j + .9) + .5 cos(.37 i j + .1 j + .9), 6 rows, 3 classes."""
    i, j = np.arange(6)[:, None], np.arange(3)[None, :]
    z = np.sin(1.3 * i + 0.7 * j + 0.9) + 0.5 * np.cos(0.37 * i * j + 0.1 * j + 0.9)
    p = 0.9 * np.exp(z) / np.exp(z).sum(1, keepdims=True) + 0.1 / 3
    found = -disagreement(jnp.asarray(np.log(p), jnp.float32), jnp.array([0, 1, 2, 1, 0, 2]))
    np.testing.assert_allclose(found.mean(), json.loads(GOLDEN.read_text())["mdd_target_term"], rtol=1e-6)


def test_certain_rows_have_finite_values_and_gradients():
    """1 − p_y is below the smallest float32, and the value is the distance of the logits."""
    z = jnp.array([[200.0, 0.0, -5.0], [-200.0, 0.0, 0.0]])
    value, slope = jax.value_and_grad(lambda z: disagreement(z, jnp.array([0, 0])).sum())(z)
    np.testing.assert_allclose(value, 200 - np.log1p(np.exp(-5)), rtol=1e-6)
    np.testing.assert_allclose(slope[0], [1, -1 / (1 + np.exp(-5)), -1 / (1 + np.exp(5))], rtol=1e-5)


@pytest.mark.parametrize("offset", [0.0, 1e4, 1e6])
def test_an_offset_of_all_logits_changes_nothing(offset):
    z = np.array([[2.0, 0.0, -1.0], [0.5, 0.25, 4.0]])
    value, slope = jax.value_and_grad(lambda z: disagreement(z, jnp.array([1, 2])).sum())(jnp.float32(z + offset))
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    np.testing.assert_allclose(value, -np.log(1 - p[[0, 1], [1, 2]]).sum(), rtol=1e-6)
    y = np.eye(3)[[1, 2]]
    np.testing.assert_allclose(slope, p * (y - p[[0, 1], [1, 2], None]) / (1 - p[[0, 1], [1, 2], None]), rtol=1e-5)


def test_every_finite_logit_has_a_finite_value():
    z = jnp.array([[3e38, -3e38], [-3e38, 3e38]], jnp.float32)
    value, slope = jax.value_and_grad(lambda z: disagreement(z[:1], jnp.array([1])).sum())(z)
    assert (float(value), np.isfinite(slope).all()) == (0.0, True)
    assert np.isfinite(disagreement(z[1:], jnp.array([1]))).all()


def test_value_and_gradient_are_the_formula_row_by_row(key):
    with jax.enable_x64():
        looked, w = views(), np.random.default_rng(1).normal(size=(4, 3))
        params = {"adversary": {"out": {"kernel": jnp.asarray(w), "bias": jnp.zeros(3)}}}
        objective = mdd(top(3), 0.5, gamma=3.0)

        def by_hand(source, target):
            values = {"source": [], "target": []}
            for name, f in (("source", source), ("target", target)):
                for row in np.flatnonzero(looked[name].mask):
                    p = np.exp(f[row] @ w) / np.exp(f[row] @ w).sum()
                    y = np.asarray(looked[name].output)[row].argmax()
                    values[name].append(-3 * np.log(p[y]) if name == "source" else -np.log(1 - p[y]))
            return np.mean(values["source"]) + np.mean(values["target"])

        def run(source, target, params=params):
            both = {"source": source, "target": target}
            now = {n: v._replace(features={"pooled": both[n]}) for n, v in looked.items()}
            return total(objective(params, {}, now, key, 0)[0])

        there = [np.asarray(looked[n].features["pooled"]) for n in ("source", "target")]
        value, slopes = jax.jit(jax.value_and_grad(run, argnums=(0, 1)))(*map(jnp.asarray, there))
        np.testing.assert_allclose(value, by_hand(*there), rtol=1e-12)
        told = jax.jit(lambda: objective(params, {}, looked, key, 0)[1].metrics)()
        same = (there[1] @ w).argmax(1) == np.asarray(looked["target"].output).argmax(1)
        np.testing.assert_allclose(told["adversary_agreement"].value, same[looked["target"].mask].mean(), rtol=1e-6)
        assert float(told["adversary_weight"]) == 0.5
        for which, row in ((0, 1), (0, 3), (1, 0), (1, 4)):
            for column in range(4):
                nudge = np.zeros_like(there[which])
                nudge[row, column] = 1e-5
                up, down = ([f + e * nudge if k == which else f for k, f in enumerate(there)] for e in (1, -1))
                slope = (by_hand(*up) - by_hand(*down)) / 2e-5
                np.testing.assert_allclose(slopes[which][row, column], -0.5 * slope, atol=1e-9)  # reversed, times λ
        assert min(float(jnp.abs(s).max()) for s in slopes) > 1e-3


def test_masked_rows_reach_neither_value_nor_gradient(key):
    clean, objective = views(), mdd(gamma=2.0)
    variables = objective.init(key, clean)
    assert variables.params["adversary"]["hidden1"]["kernel"].shape == (4, 256)

    def broken(v):
        keep = jnp.asarray(v.mask)[:, None]
        f = jnp.where(keep, v.features["pooled"], jnp.nan)
        return v._replace(features={"pooled": f}, output=jnp.where(keep, v.output, jnp.nan))

    run = jax.jit(jax.value_and_grad(lambda params, looked: total(objective(params, {}, looked, key, 0)[0])))

    def looked(views):
        return {n: v._replace(mask=jnp.asarray(v.mask)) for n, v in views.items()}

    expected = run(variables.params, looked(clean))
    found = run(variables.params, looked({n: broken(v) for n, v in clean.items()}))
    assert largest_difference(found, expected) < 1e-6
    none = run(variables.params, looked(clean | {"target": clean["target"]._replace(mask=np.zeros(9, bool))}))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(none))


def test_what_does_not_fit_is_refused(key):
    with pytest.raises(ValueError, match="gamma=0"):
        mdd(gamma=0)
    looked = views()
    wrong = mdd(top(5))
    with pytest.raises(ValueError, match=r"the adversary returns \(15, 5\) for 15 rows; the classifier has 3"):
        wrong(wrong.init(key, looked).params, {}, looked, key, 0)
    one = {n: v._replace(output=v.output[:, :1]) for n, v in looked.items()}
    with pytest.raises(ValueError, match=r"shape \(6, 1\)"):
        mdd().init(key, one)
