"""CAN against loops over classes and rows; the clusters of the target, and what is left out of them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from alignment_references import domains, same_value_and_gradient
from nets import dense, normed, top

import jtl
from jtl.methods.adapt.adapt import adapt
from jtl.methods.adapt.can import can, contrastive_discrepancy
from jtl.methods.adapt.cluster_labels import cluster_labels, spherical_clusters
from jtl.methods.adapt.own_norms import of_domain
from jtl.model import Variables
from jtl.networks import network
from jtl.train.step import make_step

KEY = jax.random.key(0)
SCALES = (0.5, 2.0)
Y, T = np.array([0, 2, 1, 1, 0, 2, 4]), np.array([0, 2, 3, 2, 1, 0, 1, 3, 0])
DRAW = np.random.default_rng(0)
CENTRES = 4 * np.eye(5)[:3]
SOURCE_Y, TARGET_Y = np.arange(24) % 3, np.arange(30) % 3
SOURCE = (CENTRES[SOURCE_Y] + DRAW.normal(size=(24, 5))).astype(np.float32)
TARGET = (CENTRES[TARGET_Y] + 1 + DRAW.normal(size=(30, 5))).astype(np.float32)


jitted = jax.jit(contrastive_discrepancy, static_argnums=4)


def squared(a, b):
    return ((a - b) ** 2).sum()


def widths(source, target, y, t):
    """The mean squared distance of two rows of a class of the source and a class of the target."""
    found = {}
    for c in set(y):
        for e in set(t):
            rows = [*source[y == c], *target[t == e]]
            found[c, e] = np.mean(
                [squared(rows[i], rows[j]) for i in range(len(rows)) for j in range(len(rows)) if i != j]
            )
    return found


def discrepancy(source, target, y, t, m):
    """The paper's equations 3 to 5, by pairs of rows."""
    both = sorted(set(y) & set(t))

    def d(c, e):
        def k(a, b):
            return np.mean([sum(np.exp(-squared(p, q) / (2 * s * m[c, e])) for s in SCALES) for p in a for q in b])

        a, b = source[y == c], target[t == e]
        return k(a, a) + k(b, b) - 2 * k(a, b)

    intra = np.mean([d(c, c) for c in both])
    others = [d(c, e) for c in both for e in both if c != e]
    return intra - (np.mean(others) if others else 0.0)


@pytest.mark.parametrize("known", [[0, 1, 2], [2]], ids=len)
def test_value_and_gradient_are_those_of_all_pairs_of_classes(known):
    fs, ft, ms, mt = domains()  # rows that do not count hold NaN
    y, t = np.where(ms, Y, -1), np.where(mt & np.isin(T, known), T, -1)
    ft = np.where((t >= 0)[:, None], ft, np.nan)
    assert set(y[y >= 0]) & set(t[t >= 0]) == set(known)
    own, other = y >= 0, t >= 0
    m = widths(fs[own], ft[other], y[own], t[other])  # constants for the gradient
    same_value_and_gradient(
        lambda a, b: contrastive_discrepancy(a, b, y, t, 5, scales=SCALES),
        lambda a, b: discrepancy(a[own], b[other], y[own], t[other], m),
        fs, ft,
    )  # fmt: skip


def test_no_class_in_common_gives_zero_and_a_scale_of_features_changes_nothing():
    fs, ft = np.float32(np.nan_to_num(domains()[0])), np.float32(np.nan_to_num(domains()[1]))
    assert float(jitted(fs, ft, Y, np.full(9, 3), 5)) == 0
    found = [float(jitted(s * fs + o, s * ft + o, Y, T, 5)) for s, o in ((1, 0), (100, 300))]
    np.testing.assert_allclose(found[1], found[0], rtol=1e-3)


def clusters_by_hand(f, centres, rounds):
    """Section 3.4 by loops: dist(a, b) = (1 − cos) / 2; a centre is the sum of its rows over their lengths."""

    def dist(a, b):
        return (1 - a @ b / np.linalg.norm(a) / np.linalg.norm(b)) / 2

    now = list(centres)
    for _ in range(rounds):
        labels = [int(np.argmin([dist(row, c) for c in now])) for row in f]
        for k in range(len(now)):
            rows = [f[i] / np.linalg.norm(f[i]) for i in range(len(f)) if labels[i] == k]
            now[k] = sum(rows) if rows else centres[k]
    return labels, [dist(row, now[k]) for row, k in zip(f, labels, strict=True)]


def test_clusters_are_those_of_loops():
    f, centres = DRAW.normal(size=(40, 4)), DRAW.normal(size=(6, 4))
    centres[5] = -100 * f.mean(0)  # no row is near
    labels, apart = clusters_by_hand(f, centres, 30)
    found, distances = spherical_clusters(f, centres)
    np.testing.assert_array_equal(found, labels)
    np.testing.assert_allclose(distances, apart, atol=1e-12)
    assert (found != spherical_clusters(f, centres, 1)[0]).any()
    np.testing.assert_array_equal(spherical_clusters(f * DRAW.uniform(0.1, 9, (40, 1)), 7 * centres)[0], found)


def sets(shuffle=False):
    source = jtl.data.arrays(SOURCE, SOURCE_Y + 1, batch_size=8, shuffle=shuffle)
    return source, jtl.data.arrays(TARGET, np.arange(30), batch_size=8, shuffle=shuffle)


def pooled(net, variables, x):
    return np.float64(net.apply(Variables(variables.params, variables.stats), x, train=False)[0].features["pooled"])


@pytest.mark.parametrize("own", [(), ("source",)], ids=["shared norms", "own norms"])
def test_a_refresh_gives_the_clusters_of_the_current_network(own):
    net = network(backbone=normed(8) if own else dense(8), head=top(4))
    source, target = sets(shuffle=True)
    pairs = jtl.data.pair(source, target, target_labels=True)
    objective = adapt(net, alignments=[can(30)], own_norms=own)
    step = make_step(objective, optax.sgd(0.05))
    state = step.init(objective.init(KEY, pairs[0]), KEY)
    fresh = cluster_labels(net, *sets(), distance=0.02, least_rows=4)
    if not own:
        run = jtl.fit(step, state, pairs, steps=4, refresh=jtl.Refresh(fresh, every=3), progress=False).state
        before = jtl.fit(step, state, pairs, steps=3, refresh=jtl.Refresh(fresh, every=3), progress=False).state
        state, found = before, np.asarray(run.stats["can"])
    else:
        moved = jax.tree.map(lambda a: -a, state.params["own_norms"])
        state = state._replace(params={**state.params, "own_norms": moved})
        found = np.asarray(fresh(state).stats["can"])
    variables = jtl.variables(state)
    theirs = of_domain(variables, "source") if own else variables
    fs, ft = pooled(net, theirs, SOURCE), pooled(net, variables, TARGET)
    units = fs / np.linalg.norm(fs, axis=1, keepdims=True)
    centres = [sum(units[i] for i in range(24) if SOURCE_Y[i] == c) for c in range(3)]
    labels, apart = clusters_by_hand(ft, centres, 30)
    near = np.where(np.array(apart) < 0.02, np.array(labels) + 1, -1)
    wanted = [c if c > 0 and (near == c).sum() >= 4 else -1 for c in near]
    np.testing.assert_array_equal(found, wanted)
    assert {-1} < set(wanted), apart
    most = max((near == c).sum() for c in (1, 2, 3))
    for least, left in ((most, {most}), (most + 1, set())):
        strict = cluster_labels(net, *sets(), distance=0.02, least_rows=int(least))(state).stats["can"]
        assert {(np.asarray(strict) == c).sum() for c in (1, 2, 3)} - {0} == left


def test_rows_of_the_source_with_the_label_to_ignore_give_no_cluster():
    net = network(backbone=dense(6), head=top(3))
    target = jtl.data.arrays(TARGET, np.arange(30), batch_size=10)
    some = SOURCE_Y != 0
    without = jtl.data.arrays(SOURCE[some], SOURCE_Y[some], batch_size=8)
    unlabelled = jtl.data.arrays(SOURCE, np.where(some, SOURCE_Y, 255), batch_size=8, ignore=255)
    objective = adapt(net, alignments=[can(30)], ignore=255)
    pairs = jtl.data.pair(unlabelled, target, target_labels=True)
    state = make_step(objective, optax.sgd(0.1)).init(objective.init(KEY, pairs[0]), KEY)
    found = cluster_labels(net, unlabelled, target, distance=1.0, ignore=255)(state).stats["can"]
    wanted = cluster_labels(net, without, target, distance=1.0)(state).stats["can"]
    assert set(found.tolist()) == {1, 2}
    np.testing.assert_array_equal(found, wanted)


def test_the_term_reads_the_labels_of_its_rows_and_of_no_others():
    net = network(backbone=dense(6), head=top(3))
    places = np.array([3, 29, -1, 30, 7, 12, 0, 5])
    mask = np.arange(8) != 7
    batch = {"source": {"x": SOURCE[:9], "y": SOURCE_Y[:9]}, "target": {"x": TARGET[:8], "y": places, "mask": mask}}
    objective = adapt(net, alignments=[can(30, 2.0)])
    there = {**batch["target"], "y": np.arange(8)}
    variables = objective.init(KEY, {**batch, "target": there})
    assert variables.stats["can"].tolist() == [-1] * 30
    with pytest.raises(ValueError, match="can: y=30 is no row of a target of 30 examples"):
        objective.init(KEY, batch)
    labels = np.where(np.arange(30) % 4 == 0, -1, TARGET_Y)
    given = variables._replace(stats={"can": jnp.asarray(labels, jnp.int32)})
    again = objective.init(KEY, {**batch, "target": there}, given)
    np.testing.assert_array_equal(again.stats["can"], labels)
    own = np.array([labels[3], labels[29], -1, -1, labels[7], labels[12], labels[0], -1])
    out = [net.apply(Variables(variables.params, {}), x, train=False)[0] for x in (SOURCE[:9], TARGET[:8])]
    wanted = 0
    for a, b in ([o.features["pooled"] for o in out], [jax.nn.softmax(o.output) for o in out]):
        wanted += jitted(a, b, SOURCE_Y[:9], own, 3)
    compiled = jax.jit(objective.loss)
    loss, aux = compiled(given.params, given.stats, batch, KEY, 0)
    np.testing.assert_allclose(loss["can"].value, 2 * wanted, rtol=1e-5)
    assert aux.metrics["can_classes"] == len(set(own) - {-1})
    loss, aux = compiled(variables.params, variables.stats, batch, KEY, 0)
    assert loss["can"].value == aux.metrics["can_classes"] == 0


def test_what_does_not_fit_is_refused():
    net = network(backbone=dense(6), head=top(3))
    source, target = sets()
    for make, message in (
        (lambda: can(0), "rows=0"),
        (lambda: can(5, -1.0), r"weight=-1\.0"),
        (lambda: can(5, scales=()), r"scales=\(\)"),
        (lambda: cluster_labels(net, source, target, distance=1.5), r"distance=1\.5: must be a number in \[0, 1\]"),
        (lambda: cluster_labels(net, source, target, least_rows=0), "least_rows=0"),
    ):
        with pytest.raises(ValueError, match=message):
            make()
    objective = adapt(net, alignments=[can(31)])
    pairs = jtl.data.pair(source, target, target_labels=True)
    state = make_step(objective, optax.sgd(0.1)).init(objective.init(KEY, pairs[0]), KEY)
    with pytest.raises(ValueError, match="1 of 31 rows are in no batch of target, as row 30"):
        cluster_labels(net, source, target)(state)
    with pytest.raises(ValueError, match=r"can: feature='map' of 'target' must be \[batch, width\]"):
        cluster_labels(net, source, target, feature="map")(state)
    nobody = jtl.data.arrays(SOURCE, np.full(24, -1), batch_size=10, ignore=-1)
    whole = jtl.data.arrays(np.concatenate([TARGET, TARGET[:1]]), np.arange(31), batch_size=8)
    with pytest.raises(ValueError, match="can: the source has no labels that are neither negative nor ignore=None"):
        cluster_labels(net, nobody, whole)(state)
    with pytest.raises(ValueError, match="can: y of 'target' must be the row of each example"):
        objective.init(KEY, jtl.data.pair(source, target)[0])
