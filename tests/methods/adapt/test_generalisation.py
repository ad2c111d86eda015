"""VREx, IRM and GroupDRO against numpy, one device against eight, and what masks do."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from nets import batch, dense, largest_difference, parts, top

from jtl import losses
from jtl.methods.adapt.adapt import adapt
from jtl.methods.adapt.group_dro import group_dro
from jtl.methods.adapt.irm import irm
from jtl.methods.adapt.views import View
from jtl.methods.adapt.vrex import vrex
from jtl.metrics.accumulate import total
from jtl.networks import network
from jtl.train.parallel.pmap import pmap_step, replicated, split_batch, unreplicated
from jtl.train.step import make_step

pytestmark = pytest.mark.whole

NAMES = ("a", "b", "c")


def views(n=(6, 8, 10), masked=True):
    draw = np.random.default_rng(0)
    return {
        name: View({}, jnp.asarray(draw.normal(size=(rows, 3)) * (i + 1)), None, jnp.asarray(draw.integers(0, 3, rows)),
                   jnp.asarray(draw.random(rows) < 0.7) if masked else None, {})
        for i, (name, rows) in enumerate(zip(NAMES, n, strict=True))
    }  # fmt: skip


def ce(z, y):
    return np.log(np.exp(z).sum()) - z[y]


def risks(views, scale=1.0, part=slice(None)):
    found = []
    for v in views.values():
        keep = range(len(v.y))[part]
        rows = [i for i in keep if v.mask[i]]
        found.append(np.mean([ce(scale * np.asarray(v.output)[i], int(v.y[i])) for i in rows]))
    return np.array(found)


def halves(views):
    e = 1e-5
    slopes = [
        (risks(views, 1 + e, p) - risks(views, 1 - e, p)) / (2 * e) for p in (slice(0, None, 2), slice(1, None, 2))
    ]
    return (slopes[0] * slopes[1]).sum()


@pytest.mark.parametrize(("term", "by_hand"), [(vrex, lambda v: risks(v).var()), (irm, halves)])
def test_value_and_gradient_are_those_of_the_definition(key, term, by_hand):
    with jax.enable_x64():
        looked, objective = views(), term(NAMES, lambda step: 2.0 * step)

        def run(z):
            now = looked | {"b": looked["b"]._replace(output=z)}
            return total(objective({}, {}, now, key, 3)[0])

        z = looked["b"].output
        value, slope = jax.value_and_grad(run)(z)
        np.testing.assert_allclose(value, 6 * by_hand(looked), rtol=1e-7)
        for i, j in ((0, 0), (1, 2), (4, 1), (5, 0)):
            up, down = (run(z.at[i, j].add(e)) for e in (1e-5, -1e-5))
            np.testing.assert_allclose(slope[i, j], (up - down) / 2e-5, atol=1e-7)
        assert float(jnp.abs(slope).max()) > 1e-3


def test_the_product_of_halves_is_unbiased_and_the_square_is_not(key):
    """Over many batches from one pool, the mean of the term is the pool's squared derivative."""
    draw = np.random.default_rng(0)
    z, y = jnp.asarray(draw.normal(size=(500, 3)), jnp.float32), jnp.asarray(draw.integers(0, 3, 500))
    slopes = jax.jvp(lambda w: losses.cross_entropy(w * z, y), (1.0,), (1.0,))[1]
    expected, objective = 2 * slopes.mean() ** 2, irm(("a", "b"))

    def run(key):
        i = jax.random.randint(key, (2, 4), 0, 500)
        looked = {n: View({}, z[k], None, y[k], None, {}) for n, k in zip(("a", "b"), i, strict=True)}
        square = (slopes[i].mean(1) ** 2).sum()
        return total(objective({}, {}, looked, key, 0)[0]), square

    found, square = jax.vmap(run)(jax.random.split(key, 20000))
    error = found.std() / np.sqrt(20000)
    assert abs(float(found.mean() - expected)) < 4 * float(error)
    assert float(square.mean() - expected) > 10 * float(error)


@pytest.mark.parametrize("term", [vrex, irm])
def test_masked_rows_and_empty_domains(key, term):
    clean, objective = views(), term(NAMES)
    run = jax.jit(jax.value_and_grad(lambda z, looked: total(
        objective({}, {}, {n: v._replace(output=z[n]) for n, v in looked.items()}, key, 0)[0])))  # fmt: skip
    z = {n: v.output for n, v in clean.items()}
    bad = {n: jnp.where(v.mask[:, None], v.output, jnp.nan) for n, v in clean.items()}
    assert largest_difference(run(bad, clean), run(z, clean)) < 1e-6
    none = clean | {"c": clean["c"]._replace(mask=jnp.zeros(10, bool))}
    value, _ = run(z, none)
    two = term(NAMES[:2])
    np.testing.assert_allclose(value, total(two({}, {}, none, key, 0)[0]), rtol=1e-5)
    nothing = {n: v._replace(mask=jnp.zeros(len(v.y), bool)) for n, v in clean.items()}
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(run(z, nothing)))
    assert float(run(z, nothing)[0]) == 0


def test_group_dro_weighs_by_the_exponentiated_risk(key):
    rows = {n: batch(n=12, seed=i, masked=True) for i, n in enumerate(NAMES)}
    net, _, _ = parts(key, rows["a"]["x"])
    objective = group_dro(net, NAMES, rate=0.5)
    start = objective.init(key, rows)
    named = network(backbone=dense(4), head=top(3))._replace(classes=("a", "b", "c"))
    assert group_dro(named, NAMES).classes == ("a", "b", "c")
    step = make_step(objective, optax.sgd(0.1))
    update, state = jax.jit(step), step.init(start, key)
    q = np.full(3, 1 / 3)
    for _ in range(3):
        looked = {
            n: View({}, net.apply(start._replace(params=state.params), v["x"], train=False)[0].output, None, v["y"],
                    v["mask"], {}) for n, v in rows.items()
        }  # fmt: skip
        r = risks(looked)
        q = q * np.exp(0.5 * r) / (q * np.exp(0.5 * r)).sum()
        state, metrics = update(state, rows)
        np.testing.assert_allclose(metrics["loss"], (q * r).sum(), rtol=1e-5)
        np.testing.assert_allclose(state.stats["group_dro"], q, rtol=1e-5)
        np.testing.assert_allclose([metrics[f"{n}/weight"] for n in NAMES], q, rtol=1e-5)
    assert np.ptp(q) > 0.01


@pytest.mark.parametrize("which", ["vrex", "irm", "group_dro"])
def test_eight_devices_step_as_one(key, which):
    rows = {n: batch(n=16, seed=i, masked=True) for i, n in enumerate(NAMES)}
    net, _, _ = parts(key, rows["a"]["x"])
    terms = {"vrex": vrex, "irm": irm}
    objective = (
        group_dro(net, NAMES) if which == "group_dro" else adapt(net, alignments=[terms[which](NAMES)], labelled=NAMES)
    )
    step = make_step(objective, optax.sgd(0.5))
    start = step.init(objective.init(key, rows), key)
    one, metrics = jax.jit(step)(start, rows)
    eight, many = pmap_step(step)(replicated(start), split_batch(rows))
    assert largest_difference(unreplicated(eight).params, one.params) < 1e-6
    np.testing.assert_allclose(np.ravel(many["loss"])[0], metrics["loss"], rtol=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: vrex(("a",)), "domains="),
        (lambda: irm("ab"), "domains='ab'"),
        (lambda: vrex(("a", "a")), "domains="),
        (lambda: group_dro(network(backbone=dense(4), head=top(3)), NAMES, rate=0.0), "rate=0.0"),
        (lambda: group_dro(network(backbone=dense(4), head=top(3)), NAMES, rate=float("inf")), "rate=inf"),
        (lambda: vrex(("a", "z"))({}, {}, views(), None, 0), "no labels of 'z'"),
        (lambda: irm(NAMES)({}, {}, views(n=(6, 1, 2)), None, 0), "'b' has 1 rows"),
    ],
)
def test_what_does_not_fit_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
