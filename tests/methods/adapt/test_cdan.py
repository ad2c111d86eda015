"""CDAN against one product a row in numpy, golden weights, and the law of its random map."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from nets import batch, largest_difference, parts, top

from jtl.methods.adapt.adapt import adapt
from jtl.methods.adapt.cdan import cdan, entropy_weights, together
from jtl.methods.adapt.views import View
from jtl.metrics.accumulate import total
from jtl.train.parallel.pmap import pmap_step, replicated, split_batch, unreplicated
from jtl.train.step import make_step

pytestmark = pytest.mark.whole

GOLDEN = Path(__file__).parents[2] / "golden.json"


def views(seed=0, n=(6, 9), masked=True):
    draw = np.random.default_rng(seed)
    made = {}
    for name, rows in zip(("source", "target"), n, strict=True):
        mask = draw.random(rows) < 0.7 if masked else None
        features = {"pooled": jnp.asarray(draw.normal(size=(rows, 4)))}
        made[name] = View(features, jnp.asarray(draw.normal(size=(rows, 3)) * 2), None, None, mask, {})
    return made


def softmax(z):
    e = np.exp(z - z.max())
    return e / e.sum()


def by_hand(views, kernel, entropy, features=None):
    """½ Σ_domains Σ_i w_i ℓ_i / n, row by row."""
    found = 0.0
    for name, label in (("source", 1.0), ("target", 0.0)):
        view = views[name]
        rows = [i for i in range(len(view.mask)) if view.mask[i]]
        f = np.asarray(view.features["pooled"]) if features is None else features[name]
        g = [softmax(np.asarray(view.output)[i]) for i in rows]
        w = np.array([1 + np.exp((p * np.log(p)).sum()) for p in g]) if entropy else np.ones(len(rows))
        z = np.array([np.outer(f[i], p).ravel() @ kernel for i, p in zip(rows, g, strict=True)])
        found += 0.5 * (w * len(rows) / w.sum() * (np.log1p(np.exp(z)) - label * z)).mean()
    return found


def value_of(objective, variables, views, key):
    terms, _ = objective(variables.params, variables.stats, views, key, 0)
    return total(terms)


@pytest.mark.parametrize("entropy", [False, True])
def test_value_and_gradient_are_those_of_one_product_a_row(key, entropy):
    with jax.enable_x64():
        looked = views()
        objective = cdan(top(1), 0.5, entropy=entropy)
        variables = objective.init(key, looked)
        kernel = jnp.asarray(np.random.default_rng(1).normal(size=(12, 1)))
        params = {"critic": {"out": {"kernel": kernel, "bias": jnp.zeros(1)}}}
        variables = variables._replace(params=params)
        flat = np.asarray(kernel)[:, 0]
        assert float(objective(params, {}, looked, key, 0)[1].metrics["critic_weight"]) == 0.5
        np.testing.assert_allclose(
            value_of(objective, variables, looked, key), by_hand(looked, flat, entropy), rtol=1e-12
        )

        def of_features(target):
            view = looked["target"]._replace(features={"pooled": target})
            return value_of(objective, variables, looked | {"target": view}, key)

        f = looked["target"].features["pooled"]
        slope = jax.grad(of_features)(f)
        there = {n: np.asarray(v.features["pooled"]) for n, v in looked.items()}
        for i, j in np.ndindex(3, 4):
            moved = [there | {"target": there["target"] + e * np.eye(9)[:, [i]] * np.eye(4)[j]} for e in (1e-5, -1e-5)]
            up, down = (by_hand(looked, flat, entropy, m) for m in moved)
            np.testing.assert_allclose(slope[i, j], -0.5 * (up - down) / 2e-5, atol=1e-9)  # reversed, times λ
        assert float(jnp.abs(slope).max()) > 1e-3

        def of_output(output):
            return value_of(objective, variables, looked | {"target": looked["target"]._replace(output=output)}, key)

        assert float(jnp.abs(jax.grad(of_output)(looked["target"].output)).max()) == 0, "g is detached"


def test_entropy_weights_have_their_golden_values():
    """z = sin(1.3 i + .7 j + .5) + .5 cos(.37 i j + .1 j + .5) + I_4[i mod 3]; rows 0 to 14 are the source."""
    i, j = np.arange(30)[:, None], np.arange(4)[None, :]
    z = np.sin(1.3 * i + 0.7 * j + 0.5) + 0.5 * np.cos(0.37 * i * j + 0.1 * j + 0.5) + np.eye(4)[np.arange(30) % 3]
    expected = json.loads(GOLDEN.read_text())["cdan_entropy_weights_per_domain_first3"]
    g = jax.nn.softmax(jnp.asarray(z, jnp.float32))
    found = entropy_weights(g[:15])
    np.testing.assert_allclose(found[:3], expected, rtol=1e-5)
    np.testing.assert_allclose(found.sum(), 15, rtol=1e-6)
    more = entropy_weights(jnp.concatenate([g[:15], g[20:23]]), np.arange(18) < 15)
    np.testing.assert_allclose(more, np.concatenate([found, np.zeros(3)]), rtol=1e-6)


def test_the_random_map_keeps_inner_products_on_average(key):
    f, g = jax.random.normal(key, (2, 5)), jax.nn.softmax(jnp.array([[1.0, 0.0, 2.0], [0.5, 1.0, 0.0]]))

    def product(key):
        a, b = jax.random.split(key)
        fixed = {"features": jax.random.normal(a, (5, 16)), "classes": jax.random.normal(b, (3, 16))}
        t = together(f, g, fixed)
        return t @ t.T

    found = jax.vmap(product)(jax.random.split(key, 4000))
    spread = found.std(0) / jnp.sqrt(4000.0)
    expected = (f @ f.T) * (g @ g.T)
    assert float((jnp.abs(found.mean(0) - expected) / spread).max()) < 4, "four standard errors"
    assert float((spread / jnp.abs(expected)).min()) < 0.1, "the test would see a wrong factor"


def test_the_map_is_drawn_once_where_the_product_is_large(key):
    looked = views(n=(3, 3))
    drawn = cdan(top(1), randomised=7).init(key, looked)
    assert jax.tree.map(jnp.shape, drawn.stats) == {"critic_map": {"features": (4, 7), "classes": (3, 7)}}
    assert drawn.params["critic"]["out"]["kernel"].shape == (7, 1)
    assert cdan(top(1)).init(key, looked).stats == {}
    wide = {n: v._replace(features={"pooled": jnp.zeros((3, 1366))}) for n, v in looked.items()}  # 4098 products
    assert cdan(top(1)).init(key, wide).params["critic"]["out"]["kernel"].shape == (1024, 1)
    most = {
        n: v._replace(features={"pooled": jnp.zeros((3, 1024))}, output=jnp.zeros((3, 4))) for n, v in looked.items()
    }
    assert cdan(top(1)).init(key, most).params["critic"]["out"]["kernel"].shape == (4096, 1)
    again = cdan(top(1), randomised=7).init(jax.random.key(9), looked, drawn)
    jax.tree.map(np.testing.assert_array_equal, again, drawn)
    terms, aux = cdan(top(1), randomised=7)(drawn.params, drawn.stats, looked, key, 0)
    jax.tree.map(np.testing.assert_array_equal, aux.stats, drawn.stats)
    assert np.isfinite(total(terms))


def test_masked_rows_reach_neither_value_nor_gradient(key):
    clean = views()
    objective = cdan(top(1), entropy=True)
    variables = objective.init(key, clean)

    def broken(view):
        keep = jnp.asarray(view.mask)[:, None]
        bad = {"pooled": jnp.where(keep, view.features["pooled"], jnp.nan)}
        return view._replace(features=bad, output=jnp.where(keep, view.output, jnp.nan))

    def run(params, looked):
        return value_of(objective, variables._replace(params=params), looked, key)

    expected = jax.value_and_grad(run)(variables.params, clean)
    found = jax.value_and_grad(run)(variables.params, {n: broken(v) for n, v in clean.items()})
    assert largest_difference(found, expected) < 1e-6
    clean["target"] = clean["target"]._replace(mask=np.zeros(9, bool))
    terms, _ = objective(variables.params, {}, clean, key, 0)
    assert float(terms["critic_target"].value) == 0
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(jax.grad(run)(variables.params, clean)))


def test_eight_devices_step_as_one(key):
    rows = {
        "source": batch(n=16, masked=True),
        "target": {"x": batch(n=24, seed=1)["x"], "mask": np.arange(24) % 3 > 0},
    }
    net, _, _ = parts(key, rows["source"]["x"])
    objective = adapt(net, alignments=[cdan(top(1), entropy=True, randomised=6)])
    step = make_step(objective, optax.sgd(0.5))
    start = step.init(objective.init(key, rows), key)
    one, metrics = jax.jit(step)(start, rows)
    eight, many = pmap_step(step)(replicated(start), split_batch(rows))
    assert largest_difference(unreplicated(eight).params, one.params) < 1e-6
    for name in ("critic_a_distance", "critic_accuracy", "loss", "critic_weight"):
        np.testing.assert_allclose(np.ravel(many[name])[0], metrics[name], rtol=1e-5, err_msg=name)


def test_what_does_not_fit_is_refused(key):
    with pytest.raises(ValueError, match="randomised=0"):
        cdan(randomised=0)
    looked = {n: v._replace(output=jnp.zeros((3, 2, 4))) for n, v in views(n=(3, 3)).items()}
    with pytest.raises(ValueError, match=r"outputs of shape \(3, 2, 4\)"):
        cdan(top(1)).init(key, looked)
