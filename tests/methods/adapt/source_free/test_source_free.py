"""SHOT and NRC against their formulas, row by row."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from counting import closed_over
from nets import dense, largest_difference, top

import jtl
from jtl.methods.adapt.source_free import centroid_labels, memory, nrc, pseudo_labels, shot
from jtl.methods.adapt.source_free.nrc import neighbours_of
from jtl.metrics.accumulate import as_terms, total
from jtl.networks import network
from jtl.params import flatten, select
from jtl.train.parallel.pmap import pmap_step, replicated, split_batch, unreplicated
from jtl.train.step import make_step

NET = network(backbone=dense(6), head=top(3))
X = np.random.default_rng(0).normal(size=(20, 5)).astype(np.float32)
TARGET = jtl.data.arrays(X, np.arange(20), batch_size=8, shuffle=False)
KEY = jax.random.key(0)


def outputs(variables, x=X):
    out = NET.apply(jtl.Variables(variables.params, {}), x, train=False)[0]
    z = np.asarray(out.output, np.float64)
    e = np.exp(z - z.max(1, keepdims=True))
    return np.asarray(out.read, np.float64), z, e / e.sum(1, keepdims=True)


@pytest.mark.parametrize("make", [shot, nrc])
def test_what_cannot_be_the_rows_of_the_target_is_refused(make):
    objective, batch = make(NET, 20), {"x": X[:4], "y": np.arange(4)}
    variables = objective.init(KEY, batch)
    for y, message in ((np.array([0, 1, 1, 2]), "2 examples of the batch have y=1"), (np.arange(17, 21), "y=20 is no")):
        with pytest.raises(ValueError, match=f"{make.__name__}: {message}"):
            objective.init(KEY, {**batch, "y": y})
    for bad in ({"x": X[:4]}, {**batch, "y": np.zeros(4)}):
        with pytest.raises(ValueError, match=f"{make.__name__}: y of 'target' must be the row of each example"):
            objective(variables.params, variables.stats, bad, KEY, 0)
    beyond = [{**batch, "x": X, "y": np.arange(-1, 20)[1:]}, {**batch, "y": np.array([-1, 0, 1, 2])}]
    state = make_step(objective, optax.sgd(0.1)).init(variables, KEY)
    passed = {nrc: lambda: memory(NET, variables, beyond), shot: lambda: pseudo_labels(NET, beyond)(state)}
    with pytest.raises(ValueError, match="hold the row -1, and it has the rows 0 to 19"):
        passed[make]()


def test_a_row_that_the_target_lacks_has_no_pseudo_label_and_no_memory():
    batch = {"x": X[:2], "y": np.array([-1, 20])}
    objective = shot(NET, 20)
    variables = objective.init(KEY, {**batch, "y": np.arange(2)})
    loss, _ = objective(variables.params, {"shot": jnp.zeros(20, jnp.int32)}, batch, KEY, 0)
    assert float(loss["pseudo"].count) == 0
    objective = nrc(NET, 20)
    variables = objective.init(KEY, {**batch, "y": np.arange(2)}, variables._replace(stats={}))
    _, aux = objective(variables.params, variables.stats, batch, KEY, 0)
    assert largest_difference(aux.stats, variables.stats) == 0


def nearest_by_hand(f, p):
    """One round of the paper: weighted means, then the smallest cosine distance, each by loops."""
    g = [np.append(row, 1) / np.linalg.norm(np.append(row, 1)) for row in f]
    predicted = sorted(set(np.argmax(p, 1)))
    centres = {k: sum(p[i, k] * g[i] for i in range(len(g))) / p[:, k].sum() for k in predicted}
    return np.array([
        min(predicted, key=lambda k: 1 - g[i] @ centres[k] / np.linalg.norm(centres[k])) for i in range(len(g))
    ])  # fmt: skip


def test_pseudo_labels_are_two_rounds_of_centroids():
    draw = np.random.default_rng(1)
    f, z = draw.normal(size=(30, 4)), 2 * draw.normal(size=(30, 5))
    z[:, 3] = -9  # a class that no row is predicted as
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    first = nearest_by_hand(f, p)
    second = nearest_by_hand_of_labels(f, first, sorted(set(z.argmax(1))))
    found = centroid_labels(f, z)
    np.testing.assert_array_equal(found, second)
    assert 3 not in found
    assert (first != z.argmax(1)).any()


def test_a_class_without_rows_has_no_centroid_in_the_second_round():
    """Its mean would be zeros, nearer by cosine than each centroid on the other side."""
    f = np.array([[6.0, 3], [-5, -8], [-7, 8], [-1, -7]])
    z = np.array([[0.5, 0.3, 0.7], [0.4, 0.2, 0.9], [0.7, 0.5, 0], [0, 0.4, 0.4]])
    first = nearest_by_hand(f, np.exp(z) / np.exp(z).sum(1, keepdims=True))
    assert sorted(set(first)) == [0, 2]
    assert set(z.argmax(1)) == {0, 1, 2}
    np.testing.assert_array_equal(centroid_labels(f, z), nearest_by_hand_of_labels(f, first, [0, 2]))


def nearest_by_hand_of_labels(f, labels, classes):
    g = [np.append(row, 1) / np.linalg.norm(np.append(row, 1)) for row in f]
    centres = {k: np.mean([g[i] for i in range(len(g)) if labels[i] == k] or [np.zeros(5)], axis=0) for k in classes}
    lengths = {k: max(np.linalg.norm(c), 1e-12) for k, c in centres.items()}
    return np.array([max(classes, key=lambda k: g[i] @ centres[k] / lengths[k]) for i in range(len(g))])


@pytest.mark.slow
@pytest.mark.compiling
def test_shot_is_its_formula_with_and_without_labels():
    objective = shot(NET, 20, weight=0.5)
    variables = objective.init(KEY, TARGET[0])
    batch = {"x": X[:8], "y": np.arange(8)}
    _, _, p = outputs(variables, X[:8])
    im = -(p * np.log(p)).sum(1).mean() + (p.mean(0) * np.log(p.mean(0))).sum()
    labels = np.full(20, -1)
    for labelled in (0, 5):
        labels[:labelled] = np.arange(labelled) % 3
        value, _ = objective(variables.params, {"shot": jnp.asarray(labels)}, batch, KEY, 0)
        pseudo = -np.log(p[np.arange(labelled), labels[:labelled]]).mean() if labelled else 0
        np.testing.assert_allclose(total(as_terms(value)), im + 0.5 * pseudo, rtol=1e-4)


def test_refreshed_labels_are_those_of_the_present_network_and_the_head_is_kept():
    objective = shot(NET, 20)
    variables = objective.init(KEY, TARGET[0])
    step = make_step(objective, optax.sgd(0.1), trainable=select("backbone/.*"))
    state = step.init(variables, KEY)
    refresh = jtl.Refresh(pseudo_labels(NET, TARGET), every=3)
    result = jtl.fit(step, state, TARGET, steps=5, refresh=refresh, progress=False).state
    before = jtl.fit(step, step.init(variables, KEY), TARGET, steps=3, refresh=refresh, progress=False).state
    f, z, _ = outputs(before)
    np.testing.assert_array_equal(result.stats["shot"], centroid_labels(f, z))
    for path, leaf in flatten(result.params["head"]).items():
        np.testing.assert_array_equal(leaf, flatten(variables.params["head"])[path])


def test_a_row_that_is_never_seen_is_told():
    short = jtl.data.arrays(X[:10], np.arange(10), batch_size=5, shuffle=False)
    objective = shot(NET, 20)
    state = make_step(objective, optax.sgd(0.1)).init(objective.init(KEY, TARGET[0]), KEY)
    with pytest.raises(ValueError, match="10 of 20 rows are in no batch of target, as row 10"):
        pseudo_labels(NET, short)(state)


@pytest.mark.slow
@pytest.mark.compiling
@pytest.mark.parametrize("make", [lambda: shot(NET, 20), lambda: nrc(NET, 20)], ids=["shot", "nrc"])
def test_masked_rows_do_not_matter(make):
    objective = make()
    variables = objective.init(KEY, TARGET[0])
    bad = {"x": np.concatenate([X[:6], 1e3 * np.ones((2, 5), np.float32)]), "y": np.array([*range(6), 0, 0])}

    def loss(params, batch):
        value, aux = objective(params, variables.stats, batch, KEY, 0)
        return total(as_terms(value)), aux.stats

    masked = jax.jit(jax.value_and_grad(loss, has_aux=True))(variables.params, {**bad, "mask": np.arange(8) < 6})
    plain = jax.jit(jax.value_and_grad(loss, has_aux=True))(variables.params, {"x": X[:6], "y": np.arange(6)})
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), masked, plain)
    bad["x"][6:] = np.nan
    spoilt = jax.jit(jax.value_and_grad(loss, has_aux=True))(variables.params, {**bad, "mask": np.arange(8) < 6})
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), spoilt, plain)
    nothing = jax.jit(jax.value_and_grad(loss, has_aux=True))(variables.params, {**bad, "mask": np.zeros(8, bool)})
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(nothing))


def test_neighbours_by_sorting():
    f = np.random.default_rng(2).normal(size=(12, 4)).astype(np.float32)
    f /= np.linalg.norm(f, axis=1, keepdims=True)
    similar = f @ f.T - 9 * np.eye(12)
    order = np.argsort(-similar, axis=1)
    places = np.array([3, 7, 0])
    near, far, back = neighbours_of(jnp.asarray(f[places]), jnp.asarray(f), jnp.asarray(places), 2, 3)
    np.testing.assert_array_equal(near, order[places, :2])
    np.testing.assert_array_equal(far, order[order[places, :2], :3])
    np.testing.assert_array_equal(back, [[i in order[k, :3] for k in order[i, :2]] for i in places])


def test_nrc_is_its_formula():
    objective = nrc(NET, 20, neighbours=2, expanded=3)
    variables = memory(NET, objective.init(KEY, TARGET[0]), TARGET)
    f, _, p = outputs(variables)
    unit = f / np.maximum(np.linalg.norm(f, axis=1, keepdims=True), 1e-12)
    bank = variables.stats["nrc"]
    np.testing.assert_allclose(bank["features"], unit, atol=1e-5)
    np.testing.assert_allclose(bank["predictions"], p, atol=1e-5)
    order = np.argsort(-(unit @ unit.T - 9 * np.eye(20)), axis=1)
    places, expected = np.array([4, 11, 17]), 0.0
    for i in places:
        for k in order[i, :2]:
            expected -= (1 if i in order[k, :3] else 0.1) * p[k] @ p[i] / 3
            expected -= sum(0.1 * p[m] @ p[i] for m in order[k, :3]) / 3
    mean = p[places].mean(0)
    expected += (mean * np.log(mean)).sum()
    value, _ = objective(variables.params, variables.stats, {"x": X[places], "y": places}, KEY, 0)
    np.testing.assert_allclose(total(as_terms(value)), expected, rtol=1e-4)


def test_numbers_that_cannot_be_are_named():
    for make, message in (
        (lambda: shot(NET, 0), "rows=0"),
        (lambda: shot(NET, 2, weight=-1), "weight=-1"),
        (lambda: nrc(NET, 3), "rows=3, neighbours=3"),
    ):
        with pytest.raises(ValueError, match=message):
            make()


@pytest.mark.parametrize("make", [lambda: shot(NET, 20), lambda: nrc(NET, 20)], ids=["shot", "nrc"])
def test_pmapped_devices_take_the_step_of_one(make):
    """The diversity is the whole batch's, and every device keeps the same bank of all rows."""
    objective = make()
    variables = objective.init(KEY, TARGET[0])
    if "nrc" in variables.stats:
        variables = memory(NET, variables, TARGET)
    rows = {"x": X[:16], "y": np.arange(16), "mask": np.arange(16) % 5 != 2}
    step = make_step(objective, optax.sgd(0.5))
    state = step.init(variables, KEY)
    wanted, _ = jax.jit(step)(state, rows)
    found, _ = pmap_step(step)(replicated(state), split_batch(rows))
    assert largest_difference(jax.device_get(unreplicated(found)).params, jax.device_get(wanted.params)) < 1e-5
    for device in range(8):
        own = jax.tree.map(lambda a, i=device: np.asarray(a)[i], found.stats)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), own, jax.device_get(wanted.stats))


def test_a_memory_closes_over_no_variables(monkeypatch):
    sizes, variables = closed_over(monkeypatch), nrc(NET, 20).init(KEY, TARGET[0])
    sizes.clear()
    memory(NET, variables, TARGET)
    assert sizes == [0] * len(TARGET)


def test_a_memory_without_every_row_is_told():
    short = jtl.data.arrays(X, np.arange(20), batch_size=8, shuffle=False, drop_last=True)
    with pytest.raises(ValueError, match="4 of 20 rows are in no batch of target, as row 16"):
        memory(NET, nrc(NET, 20).init(KEY, TARGET[0]), short)
