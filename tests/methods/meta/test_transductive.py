"""Transductive learners against slow loops, minima and nearest prototypes; masks, orders, absent classes."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import TypeCheckError
from nets import dense

from jtl import heads
from jtl.methods.finetune.finetune import evaluation
from jtl.methods.meta.information_maximised import information_maximised
from jtl.methods.meta.laplacian_shot import laplacian_shot
from jtl.methods.meta.memory import centred, memorise, nearest_mean
from jtl.methods.meta.over_episodes import over_episodes
from jtl.methods.meta.transductive import together
from jtl.metrics.accumulate import total
from jtl.networks import network

WAY = 3
METHODS = {
    "laplacian": partial(laplacian_shot, strength=0.7),
    "rectified": partial(laplacian_shot, strength=0.7, rectified=True),
    "information": partial(information_maximised, steps=20),
}


@pytest.fixture(autouse=True)
def wide():
    with jax.enable_x64(True):
        yield


@cache
def compiled(name):
    return jax.jit(partial(METHODS[name], way=WAY))


def run(name, task, **changed):
    """The probabilities of a task's queries, always with weights and a mask, so that most calls share a program."""
    task = {**task, **changed}
    given = {"weights": task.get("weights", np.ones(len(task["y"]))), "centre": np.full(4, 0.1)}
    mask = np.asarray(task.get("query_mask", np.ones(len(task["q"]), bool)))
    return np.exp(np.asarray(compiled(name)(task["z"], task["y"], task["q"], query_mask=mask, **given)))


@pytest.fixture
def task():
    draw = np.random.default_rng(0)
    middle = draw.normal(size=(WAY, 4))
    y, true = np.tile(np.arange(WAY), 2), np.array([0, 0, 0, 0, 1, 1, 1, 2, 2])
    z, q = (middle[k] + 0.7 * draw.normal(size=(len(k), 4)) for k in (y, true))
    return {"z": z, "y": y.astype(np.int32), "q": q}


def unit(a):
    return a / np.linalg.norm(a, axis=1, keepdims=True)


def means(z, y):
    return np.stack([z[y == k].mean(0) for k in range(WAY)])


@pytest.mark.parametrize("rectified", [False, True])
def test_laplacian_shot_is_a_loop_over_neighbours(task, rectified):
    """The paper's update, with scikit-learn's neighbours, of which the first is the query itself."""
    from scipy.special import softmax
    from sklearn.neighbors import NearestNeighbors

    z, q, y = unit(task["z"] - 0.1), unit(task["q"] - 0.1), task["y"]
    c = means(z, y)
    if rectified:
        q = q + z.mean(0) - q.mean(0)
        rows = np.concatenate([z, q])
        cosine = unit(rows) @ unit(c).T
        of = np.concatenate([y, cosine[len(z) :].argmax(1)])
        share = softmax(10 * cosine, 1)
        c = np.stack([np.mean([share[i, k] * rows[i] for i in np.flatnonzero(of == k)], 0) for k in range(WAY)])
    a = np.array([[((row - m) ** 2).sum() for m in c] for row in q])
    near = NearestNeighbors(n_neighbors=3).fit(q).kneighbors(q)[1][:, 1:]
    p = softmax(-a, 1)
    for _ in range(20):
        p = np.stack([softmax(-a[i] + 0.7 * sum(p[j] for j in near[i])) for i in range(len(q))])
    np.testing.assert_allclose(run("rectified" if rectified else "laplacian", task), p, rtol=1e-6)


def test_the_updates_of_laplacian_shot_reach_the_minimum_of_their_function():
    """Of two queries, which are each other's neighbours, so that w is symmetric: scipy finds the same minimum."""
    from scipy.optimize import minimize
    from scipy.special import softmax

    z, q = np.eye(2), np.array([[0.9, 0.2], [0.5, 0.6]])
    options = {"way": 2, "strength": 0.7, "neighbours": 1, "steps": 200, "normalise": False}
    found = jax.jit(partial(laplacian_shot, **options))(z, np.arange(2), q)
    a = ((q[:, None] - z) ** 2).sum(-1)

    def energy(u):
        p = softmax(u.reshape(2, 2), 1)
        return (p * (np.log(p) + a)).sum() - 0.7 * p[0] @ p[1]  # both orders of the pair, and λ / 2

    best = minimize(energy, np.zeros(4), tol=1e-12).x.reshape(2, 2)
    np.testing.assert_allclose(np.exp(found), softmax(best, 1), atol=1e-6)


def loop(task, steps, lam, alpha, balance, tau=15.0):
    """TIM-ADM element by element, from the formulas of the paper; the queries' probabilities, W, and labels."""
    z, q, y = unit(task["z"] - 0.1), unit(task["q"] - 0.1), np.eye(WAY)[task["y"]]
    w = means(z, task["y"])

    def p_of(x):
        e = np.array([np.exp(-tau / 2 * ((w[k] - x) ** 2).sum()) for k in range(WAY)])
        return e / e.sum()

    for _ in range(steps):
        ps, pq = np.stack([p_of(x) for x in z]), np.stack([p_of(x) for x in q])
        labels = np.stack([p ** (1 + alpha) / (pq ** (1 + alpha)).sum(0) ** (balance / (1 + balance)) for p in pq])
        labels /= labels.sum(1, keepdims=True)
        new = []
        for k in range(WAY):
            above, below = 0.0, 0.0
            for given, p, rows, weight in ((y, ps, z, lam / (1 + alpha)), (labels, pq, q, len(z) / len(q))):
                for i, x in enumerate(rows):
                    above = above + weight * (given[i, k] * x + p[i, k] * (w[k] - x))
                    below = below + weight * given[i, k]
            new.append(above / below)
        w = np.stack(new)
    return np.stack([p_of(x) for x in q]), w, z, q, y


def test_information_is_maximised_as_by_the_papers_updates(task):
    np.testing.assert_allclose(run("information", task), loop(task, 20, 0.1, 0.1, 1.0)[0], rtol=1e-6)
    other = {"supervised": 0.5, "conditional": 0.3, "balance": 0.4, "steps": 3, "centre": np.full(4, 0.1)}
    found = jax.jit(partial(information_maximised, way=WAY, **other))(task["z"], task["y"], task["q"])
    np.testing.assert_allclose(np.exp(found), loop(task, 3, 0.5, 0.3, 0.4)[0], rtol=1e-6)


def test_an_update_of_the_prototypes_is_a_gradient_step_on_the_papers_function(task):
    """With the labels q held, of `−λ/|S| Σ_S log p − (1+α)/|Q| Σ_Q q log p`; its rate is 1 / (τ · the denominator)."""
    lam, alpha, tau = 0.5, 0.2, 15.0
    p, before, z, q, y = loop(task, 0, lam, alpha, 1.0)
    after = loop(task, 1, lam, alpha, 1.0)[1]
    labels = p ** (1 + alpha) / np.sqrt((p ** (1 + alpha)).sum(0))
    labels /= labels.sum(1, keepdims=True)

    def value(w):
        def log_p(x):
            return jax.nn.log_softmax(-tau / 2 * ((x[:, None] - w[None]) ** 2).sum(-1))

        return -lam * (y * log_p(z)).sum() / len(z) - (1 + alpha) * (labels * log_p(q)).sum() / len(q)

    below = lam * y.sum(0) / len(z) + (1 + alpha) * labels.sum(0) / len(q)
    slope = np.asarray(jax.jit(jax.grad(value))(before))
    np.testing.assert_allclose(after, before - slope / (tau * below[:, None]), rtol=1e-9)
    assert np.abs(after - before).max() > 0.01


def test_information_grows_and_balance_evens_the_classes(task):
    from scipy.stats import entropy

    def parts(p):
        return entropy(p.mean(0)), entropy(p, axis=1).mean()

    before = parts(loop(task, 0, 0, 0, 0)[0])
    after = parts(run("information", task))
    assert after[0] - 0.1 * after[1] > before[0] - 0.1 * before[1] + 0.01
    call = jax.jit(partial(information_maximised, way=WAY, steps=20), static_argnames="balance")
    given = task["z"], task["y"], task["q"]
    none, much = (parts(np.exp(np.asarray(call(*given, balance=b))))[0] for b in (0.0, 4.0))
    assert much > none + 0.01


@pytest.mark.parametrize("name", METHODS)
def test_orders_weights_masks_and_other_queries(task, name):
    found = run(name, task)
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-12)
    rows, order, names = (np.random.default_rng(1).permutation(n) for n in (6, 9, WAY))
    moved = run(name, task, z=task["z"][rows], y=task["y"][rows], q=task["q"][order])
    np.testing.assert_allclose(moved, found[order], rtol=1e-9)
    renamed = run(name, task, y=names[task["y"]].astype(np.int32))
    np.testing.assert_allclose(renamed[:, names], found, rtol=1e-9)

    cut = run(name, task, z=task["z"][:5], y=task["y"][:5], q=task["q"][:8])
    bad = {n: task[n].copy() for n in "zyq"}
    bad["z"][5], bad["q"][8], bad["y"][5] = np.nan, np.nan, -1
    masked = run(name, bad, weights=np.arange(6) < 5, query_mask=np.arange(9) < 8)
    np.testing.assert_allclose(masked[:8], cut, rtol=1e-9)
    assert np.abs(masked[:8] - found[:8]).max() > 1e-3, "a query that counts has an effect on others"
    assert np.isnan(run(name, task, y=np.where(np.arange(6) == 1, WAY, task["y"]).astype(np.int32))).all()

    twice = np.append(np.arange(6), 0)
    again = run(name, task, z=task["z"][twice], y=task["y"][twice])
    np.testing.assert_allclose(run(name, task, weights=np.array([2.0, 1, 1, 1, 1, 1])), again, rtol=1e-9)


@pytest.mark.parametrize("name", METHODS)
def test_absent_classes_empty_sets_and_derivatives(task, name):
    few = run(name, task, weights=(task["y"] < 2).astype(float))
    assert (few[:, 2] == 0).all()
    np.testing.assert_allclose(few[:, :2].sum(1), 1)
    assert np.isfinite(run(name, task, weights=np.zeros(6))).all()
    assert np.isfinite(run(name, task, query_mask=np.zeros(9, bool))).all()

    @jax.jit
    def slopes(z, q, weights, mask):
        def picked(z, q):
            return METHODS[name](z, task["y"], q, way=WAY, weights=weights, query_mask=mask)[:, :2].sum()

        return jax.vmap(jax.value_and_grad(picked, (0, 1)))(z, q)

    z, q = (np.stack([task[n]] * 3) for n in "zq")
    z[0, 5] = q[0, 8] = np.nan
    for weights, mask in ((np.arange(6) < 5, np.arange(9) < 8), (task["y"] < 2, np.zeros(9, bool))):
        some = slice(0, 2) if mask.any() else slice(1, 3)
        found = slopes(z[some], q[some], weights, mask)
        assert all(np.isfinite(a).all() for a in jax.tree.leaves(found))


def episode(tasks=2):
    draw = np.random.default_rng(0)

    def part(n):
        y = np.tile(np.arange(n, dtype=np.int32) % WAY, (tasks, 1))
        return {"x": draw.normal(size=(tasks, n, 5)) + y[..., None], "y": y}

    return {"support": part(6), "query": part(9)}


def test_without_neighbours_or_steps_a_judge_is_that_of_nearest_prototypes(key):
    """Over episodes, with the head's centre: the loss is that of `nearest_mean`, and with neighbours it is another."""
    net = network(backbone=dense(6), head=nearest_mean())
    data = [episode()]
    variables = net.init(key, data[0]["support"]["x"][0])
    variables = centred(net, variables, jnp.linspace(0, 1, 12).reshape(2, 6))
    judges = {
        "inductive": evaluation(net),
        "alone": together(net, partial(laplacian_shot, strength=0.0)),
        "still": together(net, partial(information_maximised, steps=0, temperature=2.0)),
        "neighbours": together(net, laplacian_shot),
    }
    found = over_episodes(memorise(net, way=WAY, train=False), judges, variables, data, metric="loss")
    losses = {name: float(each.mean[0]) for name, each in found.items()}
    assert losses["inductive"] == pytest.approx(losses["alone"], rel=1e-5)
    assert losses["inductive"] == pytest.approx(losses["still"], rel=1e-5)
    assert abs(losses["inductive"] - losses["neighbours"]) > 1e-3


def test_a_judge_passes_the_masks_of_both_sets(key):
    net = network(backbone=dense(6), head=heads.identity())
    rows = jax.tree.map(lambda a: a[0], episode())
    adapt, judge = memorise(net, way=WAY, train=False), together(net, partial(information_maximised, steps=5))
    start = net.init(key, rows["support"]["x"])

    @jax.jit
    def value(support, query):
        loss, aux = judge(*adapt(*start, support, key), query, key, 0)
        return jnp.stack([total(loss), aux.metrics["accuracy"].value])

    cut = value(*({n: a[:-1] for n, a in rows[part].items()} for part in ("support", "query")))
    masked = {part: {n: a.copy() for n, a in half.items()} for part, half in rows.items()}
    for half in masked.values():
        half["x"][-1], half["y"][-1], half["mask"] = np.nan, -1, np.arange(len(half["y"])) < len(half["y"]) - 1
    np.testing.assert_allclose(value(masked["support"], masked["query"]), cut, rtol=1e-5)
    with pytest.raises(ValueError, match="has none: adapt with memorise"):
        judge(*start, rows["query"], key, 0)
    wrong = {**rows["support"], "y": np.full(6, WAY, np.int32)}
    assert np.isnan(value(wrong, rows["query"])[0])
    two = network(backbone=dense(6), a=heads.identity(), b=heads.identity())
    with pytest.raises(ValueError, match=r"has the heads \['a', 'b'\]"):
        together(two, laplacian_shot)


def test_what_does_not_fit_is_refused(task):
    z, y, q = task["z"], task["y"], task["q"]
    for method, wrong in (
        (laplacian_shot, ({"way": 0}, {"neighbours": 0}, {"steps": -1}, {"strength": -0.1})),
        (information_maximised, ({"temperature": 0.0}, {"supervised": -1.0}, {"conditional": -1.0}, {"balance": -1.0})),
    ):
        for options in wrong:
            (name,) = options
            with pytest.raises(ValueError, match=f"{name}="):
                method(z, y, q, **{"way": WAY, **options})
    refused = partial(pytest.raises, (ValueError, TypeCheckError))
    with refused(match=r"Type-check|queries of shape \(9, 3\) do not fit"):
        METHODS["laplacian"](z, y, q[:, :3], way=WAY)
    with refused(match="Type-check|give features"):
        METHODS["laplacian"](z, y[:5], q, way=WAY)
    with refused(match="Type-check|one for each of 6 rows"):
        METHODS["laplacian"](z, y, q, way=WAY, weights=np.ones(5))
    with refused(match="Type-check|does not fit 9 rows"):
        METHODS["laplacian"](z, y, q, way=WAY, query_mask=np.ones(8))
    for centre in (np.ones(1), np.ones((1, 4))):
        with refused(match=r"Type-check|centre of shape \(1.* does not fit"):
            METHODS["laplacian"](z, y, q, way=WAY, centre=centre)


@pytest.mark.parametrize("method", [laplacian_shot, partial(information_maximised, temperature=1.0, steps=5)])
def test_an_offset_of_all_features_changes_nothing_in_float32(task, method):
    call = jax.jit(partial(method, way=4, normalise=False))  # and one class is absent

    def at(offset):
        z, q = ((task[n] + offset).astype(np.float32) for n in "zq")
        return np.exp(call(z, task["y"], q))

    np.testing.assert_allclose(at(1024), at(0), atol=2e-3)


def test_features_and_numbers_of_other_precisions_are_taken(task):
    z, q, number = task["z"].astype(np.float32), task["q"], np.float64(0.7)
    for method in (partial(laplacian_shot, strength=number), partial(information_maximised, supervised=number)):
        assert jax.eval_shape(partial(method, way=WAY, centre=np.ones(4)), z, task["y"], q).dtype == np.float32
