"""EQRM against the root that SciPy finds in float64; masks, domains without rows, parts of a batch and devices."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from nets import batch, dense, largest_difference, top
from scipy.optimize import brentq
from scipy.stats import norm

from jtl import alignments
from jtl.methods.adapt.eqrm import quantile
from jtl.metrics.accumulate import total
from jtl.networks import network
from jtl.train.parallel.pmap import pmap_step, replicated, split_batch, unreplicated
from jtl.train.step import make_step

KEY = jax.random.key(0)
NAMES = ("a", "b", "c")
NET = network(backbone=dense(6), head=top(3))
ROWS = {n: batch(n=16, seed=i, masked=True) | {"weights": np.arange(16) % 3 + 1.0} for i, n in enumerate(NAMES)}
VARIABLES = NET.init(KEY, ROWS["a"]["x"])
RISKS, SEEN = np.array([0.9, 2.5, 1.4, 40.0, 1.1]), np.array([True, True, True, False, True])


def by_scipy(risks, alpha):
    h = 1.06 * np.std(risks, ddof=1) * len(risks) ** -0.2
    if alpha < 0:
        return np.mean(risks) + h * np.sqrt(-2 * alpha)

    def gap(v):
        """Of the logarithms of the smaller tail."""
        if alpha > 0.5:
            return np.log(norm.sf((v - risks) / h).mean()) - np.log1p(-alpha)
        return np.log(norm.cdf((v - risks) / h).mean()) - np.log(alpha)

    return brentq(gap, risks.min() - 9 * h, risks.max() + 9 * h, xtol=1e-13)


def mean_risks(rows):
    found = []
    for part in rows.values():
        z = np.asarray(NET.apply(VARIABLES, part["x"], train=False)[0].output, np.float64)
        values = np.log(np.exp(z).sum(1)) - z[np.arange(len(z)), part["y"]]
        w = part["mask"] * part["weights"]
        found.append((w * np.where(w > 0, values, 0)).sum() / w.sum())
    return np.array(found)


@pytest.mark.parametrize("alpha", [0.1, 0.5, 0.75, 0.99, 1 - 1e-9, -1000.0])
def test_value_and_gradient_are_those_of_scipys_root(alpha):
    with jax.enable_x64():
        run = jax.jit(jax.value_and_grad(lambda r: quantile(r, jnp.asarray(SEEN), alpha)))
        value, slope = run(jnp.asarray(RISKS))
    np.testing.assert_allclose(value, by_scipy(RISKS[SEEN], alpha), rtol=1e-9)
    wanted = np.zeros(5)
    for i in np.flatnonzero(SEEN):
        up, down = (by_scipy((RISKS + e * np.eye(5)[i])[SEEN], alpha) for e in (1e-5, -1e-5))
        wanted[i] = (up - down) / 2e-5
    np.testing.assert_allclose(slope, wanted, atol=2e-6)
    np.testing.assert_allclose(wanted.sum(), 1, atol=1e-6)  # a constant added to all risks is added to the quantile
    single = jax.jit(lambda r: quantile(r, jnp.asarray(SEEN), alpha))(jnp.asarray(RISKS, jnp.float32))
    np.testing.assert_allclose(single, value, rtol=2e-6)


def test_two_domains_have_a_second_derivative_too():
    """At α = 1/2: the median of two kernels is their mean, which is linear; that of three is not."""
    with jax.enable_x64():
        hessian = jax.jit(jax.hessian(lambda r: quantile(r, jnp.ones(len(r), bool), 0.5)))
        np.testing.assert_allclose(hessian(jnp.array([1.0, 3.0])), np.zeros((2, 2)), atol=1e-9)
        r, e = np.array([0.9, 2.5, 1.4]), 1e-3
        up, down = (by_scipy(r + np.array([0, s, 0]), 0.5) for s in (e, -e))
        wanted = (up - 2 * by_scipy(r, 0.5) + down) / e**2
        np.testing.assert_allclose(hessian(jnp.asarray(r))[1, 1], wanted, rtol=1e-4)
        assert abs(wanted) > 1e-2


@pytest.mark.parametrize("alpha", [0.75, -1000.0])
def test_equal_risks_one_domain_and_none_have_finite_gradients(alpha):
    run = jax.jit(jax.value_and_grad(lambda r, seen: quantile(r, seen, alpha)))
    for seen, value, share in (([1, 1, 1], 2.0, 1 / 3), ([0, 1, 0], 2.0, 1.0), ([0, 0, 0], 0.0, 0.0)):
        found, slope = run(jnp.full(3, 2.0), jnp.array(seen, bool))
        assert found == value
        np.testing.assert_allclose(slope, share * np.array(seen), rtol=1e-6)


def test_the_loss_is_the_quantile_of_weighted_risks_and_their_mean_at_first():
    objective = alignments.eqrm(NET, NAMES, alpha=0.9, burn_in=2)
    run = jax.jit(objective.loss)
    risks = mean_risks(ROWS)
    for step, wanted in ((1, risks.mean()), (2, by_scipy(risks, 0.9))):
        terms, aux = run(VARIABLES.params, {}, ROWS, KEY, step)
        np.testing.assert_allclose(terms["eqrm"].value, wanted, rtol=1e-5)
    np.testing.assert_allclose([aux.metrics[f"{n}/risk"].value for n in NAMES], risks, rtol=1e-5)
    assert {f"{n}/accuracy" for n in NAMES} < aux.metrics.keys()
    assert abs(wanted - risks.mean()) > 1e-2


def test_masked_rows_and_domains_without_rows():
    run = jax.jit(jax.value_and_grad(lambda p, rows: total(alignments.eqrm(NET, NAMES)(p, {}, rows, KEY, 0)[0])))
    bad = {
        n: {**part, "x": np.where(part["mask"][:, None], part["x"], np.nan).astype(np.float32)}
        for n, part in ROWS.items()
    }
    plain = run(VARIABLES.params, ROWS)
    assert largest_difference(run(VARIABLES.params, bad), plain) < 1e-6
    none = np.zeros(16, bool)
    value, slopes = run(VARIABLES.params, bad | {"c": {**bad["c"], "mask": none}})
    np.testing.assert_allclose(value, by_scipy(mean_risks(ROWS)[:2], 0.75), rtol=1e-5)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(slopes))
    nothing = run(VARIABLES.params, {n: {**part, "mask": none} for n, part in bad.items()})
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(nothing))


def test_parts_weigh_by_their_rows_and_eight_devices_step_as_one():
    objective = alignments.eqrm(NET, NAMES)
    step, parts = (make_step(objective, optax.sgd(0.5), microbatch=m) for m in (1, 2))
    start = step.init(VARIABLES, KEY)
    one, metrics = jax.jit(step)(start, ROWS)
    eight, many = pmap_step(step)(replicated(start), split_batch(ROWS))
    assert largest_difference(jax.device_get(unreplicated(eight)).params, one.params) < 1e-6
    np.testing.assert_allclose(np.ravel(many["loss"])[0], metrics["loss"], rtol=1e-5)
    emptier = {
        n: {**part, "mask": part["mask"] & (np.arange(16) > 5 * (np.arange(16) % 2))} for n, part in ROWS.items()
    }
    halves = [jax.tree.map(lambda a, i=i: a[i::2], emptier) for i in (0, 1)]
    weights = [sum((part["mask"] * part["weights"]).sum() for part in half.values()) for half in halves]
    assert weights[0] > 1.2 * weights[1]
    wanted = np.average([by_scipy(mean_risks(half), 0.75) for half in halves], weights=weights)
    np.testing.assert_allclose(jax.jit(parts)(start, emptier)[1]["loss"], wanted, rtol=1e-5)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        *(({"alpha": a}, f"alpha={a}: give a quantile") for a in (0.0, 1.0, float("nan"), -float("inf"), True)),
        ({"burn_in": -1}, "burn_in=-1"),
        ({"domains": ("a",)}, "domains="),
    ],
)
def test_what_does_not_fit_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        alignments.eqrm(**{"net": NET, "domains": NAMES, **given})
