"""Distribution calibration against numpy and scikit-learn: statistics, moments of the samples, and the regression."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtl.methods.meta.calibrated import base_classes, calibrated, powers, sampled

WAY, SAMPLES = 3, 20


@pytest.fixture(autouse=True)
def wide():
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module")
def case():
    """Features of 4 base classes with 30 rows each, and a task of 6 examples and 5 queries, all positive."""
    draw = np.random.default_rng(0)
    middle = 4 + 2 * draw.normal(size=(4, 1, 3))
    rows = np.abs(middle + draw.normal(size=(4, 30, 3)) @ draw.normal(size=(3, 3))).reshape(-1, 3)
    task = {
        "support": draw.uniform(1, 60, (6, 3)),
        "y": np.tile(np.arange(WAY), 2),
        "queries": draw.uniform(1, 60, (5, 3)),
    }
    return rows, np.repeat(np.arange(4), 30), task


@pytest.fixture(scope="module")
def base(case):
    with jax.enable_x64(True):
        return base_classes(*case[:2])


@pytest.fixture(scope="module")
def run(base):
    """The logits of a task, mapped over two: the second one is the first one backwards."""
    call = partial(calibrated, way=WAY, samples=SAMPLES, dispersion=0.1)
    fast = jax.jit(jax.vmap(lambda z, y, q, base, key, s: call(z, y, q, base, key, weights=s), (0, 0, 0, None, 0, 0)))

    def one(task, weights=None, key=0):
        each = np.ones(len(task["y"])) if weights is None else np.asarray(weights, float)
        z, y, q, s = (np.stack([a, a[::-1]]) for a in (task["support"], task["y"], task["queries"], each))
        keys = jnp.stack([jax.random.key(key), jax.random.key(9)])
        return np.asarray(fast(z, y, q, base, keys, s)[0])

    return one


def test_the_statistics_are_numpys(case, base):
    x, y, _ = case
    for k in range(4):
        np.testing.assert_allclose(base.mean[k], x[y == k].mean(0), rtol=1e-12)
        np.testing.assert_allclose(base.root[k] @ base.root[k].T, np.cov(x[y == k].T), rtol=1e-10)


def test_samples_have_the_papers_mean_and_covariance(case, base):
    """Of the nearest two of four classes; within five standard errors of each entry."""
    x, y, task = case
    at, count, alpha = np.sqrt(task["support"][0]), 40_000, 0.3
    near = np.argsort([np.linalg.norm(at - x[y == k].mean(0)) for k in range(4)])[:2]
    mean = (sum(x[y == k].mean(0) for k in near) + at) / 3
    cov = sum(np.cov(x[y == k].T) for k in near) / 2 + alpha
    found = np.asarray(jax.jit(sampled, static_argnums=(3, 4, 5))(jax.random.key(0), at, base, 2, alpha, count))
    assert (np.abs(found.mean(0) - mean) < 5 * np.sqrt(np.diag(cov) / count)).all()
    error = np.sqrt((cov**2 + np.outer(np.diag(cov), np.diag(cov))) / count)
    assert (np.abs(np.cov(found.T) - cov) < 5 * error).all()


def test_the_regression_is_sklearns(case, base, run):
    """Of the examples and the same samples, with the weight of its example for each sample; 0 is as if absent."""
    from sklearn.linear_model import LogisticRegression

    task, weights = case[2], np.array([0.5, 2, 1, 1, 3, 0])
    x = np.sqrt(task["support"])

    @jax.jit
    @jax.vmap
    def drawn(i, row):
        return sampled(jax.random.fold_in(jax.random.key(0), i), row, base, 2, 0.1, SAMPLES)

    rows = np.concatenate([x, *drawn(jnp.arange(6), x)])
    y, s = (np.concatenate([a, np.repeat(a, SAMPLES)]) for a in (task["y"], weights))
    fitted = LogisticRegression(tol=1e-10, max_iter=10_000).fit(rows, y, sample_weight=s)
    found = jax.nn.log_softmax(run(task, weights))
    np.testing.assert_allclose(found, fitted.predict_log_proba(np.sqrt(task["queries"])), rtol=1e-4, atol=1e-5)


def test_orders_masks_and_absent_classes(case, run):
    task = case[2]
    found = run(task)
    order = np.random.default_rng(0).permutation(5)
    np.testing.assert_allclose(run({**task, "queries": task["queries"][order]}), found[order], rtol=1e-12)
    other = task["queries"].copy()
    other[1:] += 1
    np.testing.assert_allclose(run({**task, "queries": other})[0], found[0], rtol=1e-12)  # it is inductive
    bad = {n: a.copy() for n, a in task.items()}
    bad["support"][5], bad["y"][5] = -1.0, -1
    np.testing.assert_allclose(run(bad, np.arange(6) < 5), run(task, np.arange(6) < 5), rtol=1e-9)
    few = run(task, (task["y"] < 2).astype(float))
    assert (few[:, 2] == -np.inf).all()
    assert np.isfinite(few[:, :2]).all()
    np.testing.assert_array_equal(run(task, np.zeros(6)), 0)
    wrong = np.where(np.arange(6) == 1, WAY, task["y"])
    assert np.isnan(run({**task, "y": wrong})).all()
    assert not np.allclose(run(task, key=1), found)


def test_what_does_not_fit_is_refused(case, base):
    x, _, task = case
    call = partial(calibrated, task["support"], task["y"], task["queries"], base, jax.random.key(0))
    wrong = {"way": 0, "nearest": 5, "samples": 0, "max_steps": 0, "power": 0.0, "dispersion": -0.1, "penalty": 0.0}
    for name, value in wrong.items():
        with pytest.raises(ValueError, match=f"{name}="):
            call(**{"way": WAY, name: value})
    negative = task["queries"] - 60
    with pytest.raises(ValueError, match="queries: 5 of 5 rows have negative features"):
        calibrated(task["support"], task["y"], negative, base, jax.random.key(0), way=WAY)
    with pytest.raises(ValueError, match="support: 6 of 6 rows have negative features"):
        calibrated(-task["support"], task["y"], task["queries"], base, jax.random.key(0), way=WAY)
    np.testing.assert_array_equal(powers(jnp.asarray(negative), 1, "queries"), negative)
    with pytest.raises(ValueError, match="do not fit base classes of 3 features"):
        calibrated(task["support"][:, :2], task["y"], task["queries"][:, :2], base, jax.random.key(0), way=WAY)
    with pytest.raises(ValueError, match="base class 1 has 1 rows"):
        base_classes(x[:3], np.array([0, 1, 0]))
    with pytest.raises(ValueError, match="give an integer of at least 0 for each row"):
        base_classes(x[:3], np.array([0, -1, 0]))
