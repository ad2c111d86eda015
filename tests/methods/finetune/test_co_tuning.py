import jax
import jax.numpy as jnp
import numpy as np
import pytest
from nets import batch, dense, top

from jtl.losses import cross_entropy
from jtl.methods.adapt.adapt import adapt
from jtl.methods.finetune.co_tuning import _halved, calibrated_temperature, category_relationship, co_tuning
from jtl.methods.finetune.finetune import finetune
from jtl.metrics.accumulate import total
from jtl.networks import network

TABLE = np.array([[0.7, 0.2, 0.1, 0.0], [0.0, 0.0, 0.5, 0.5], [0.25, 0.25, 0.25, 0.25]], np.float32)


@pytest.fixture(scope="module")
def setup():
    rows = batch(masked=True)
    net = network(backbone=dense(8), head=top(3), source=top(4))
    objective = finetune(net, lambda z, y: cross_entropy(z["head"], y), [co_tuning(TABLE)], metrics={})
    return rows, net, objective, objective.init(jax.random.key(0), rows)


def test_the_term_is_torchs_cross_entropy_with_soft_labels(setup):
    torch = pytest.importorskip("torch")
    rows, net, objective, start = setup
    loss, _ = objective(start.params, start.stats, rows, None, 0)
    z = np.asarray(net.apply(start, rows["x"], train=False)[0].output["source"])[rows["mask"]]
    target = torch.tensor(TABLE[rows["y"][rows["mask"]]])
    expected = 2.3 * torch.nn.functional.cross_entropy(torch.tensor(z), target)
    np.testing.assert_allclose(loss["co_tuning"].value, expected, rtol=1e-5)
    term = co_tuning(TABLE, 0.5, temperature=1.7)
    softer = finetune(net, lambda z, y: cross_entropy(z["head"], y), [term], metrics={})
    loss, _ = softer(start.params, start.stats, rows, None, 0)
    expected = 0.5 * torch.nn.functional.cross_entropy(torch.tensor(z / 1.7), target)
    np.testing.assert_allclose(loss["co_tuning"].value, expected, rtol=1e-5)


def test_at_the_relationships_temperature_the_old_head_starts_in_balance(setup):
    """Of the direct relationship the mean of q over a class is its row, so the bias has no gradient; else it has."""
    rows, net, _, start = setup
    rows = {"x": rows["x"], "y": rows["y"]}
    z = 4 * np.asarray(net.apply(start, rows["x"], train=False)[0].output["source"])  # as of a head that is too sure
    table = category_relationship(z, rows["y"], classes=3, temperature=2.0)
    source = jax.tree.map(lambda leaf: 4 * leaf, start.params["source"])
    slopes = []
    for temperature in (2.0, 1.0):
        term = co_tuning(table, temperature=temperature)
        objective = finetune(net, lambda z, y: cross_entropy(z["head"], y), [term], metrics={})
        params = {**start.params, "source": source}
        made = objective.init(jax.random.key(0), rows, start._replace(params=params, stats={}))
        slope = jax.grad(lambda p, of=objective, s=made.stats: total(of(p, s, rows, None, 0)[0]))(params)
        slopes.append(float(np.abs(slope["source"]["out"]["bias"]).max()))
    assert slopes[0] < 1e-6 < 1e-3 < slopes[1]


def test_masked_rows_reach_no_gradient(setup):
    rows, _, objective, start = setup
    wrong = {
        **rows,
        "x": np.where(rows["mask"][:, None], rows["x"], np.nan),
        "y": np.where(rows["mask"], rows["y"], 99).astype(np.int32),
    }
    slope = jax.grad(lambda p, r: total(objective(p, start.stats, r, None, 0)[0]))
    for a, b in zip(
        jax.tree.leaves(slope(start.params, rows)), jax.tree.leaves(slope(start.params, wrong)), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-6)


@pytest.mark.parametrize("label", [-1, 3, 0])
def test_rows_whose_label_is_no_class_or_ignored_do_not_count(setup, label):
    rows, net, objective, start = setup
    if label == 0:  # a class
        objective = finetune(net, lambda z, y: cross_entropy(z["head"], y), [co_tuning(TABLE)], metrics={}, ignore=0)
    ignored = {**rows, "y": rows["y"].copy()}
    masked = {**rows, "mask": rows["mask"].copy()}
    some = np.flatnonzero(rows["mask"])[:4]
    ignored["y"][some], masked["mask"][some] = label, False
    found, wanted = (objective(start.params, start.stats, part, None, 0)[0]["co_tuning"] for part in (ignored, masked))
    np.testing.assert_allclose(found.value, wanted.value, rtol=1e-6)
    assert found.count == wanted.count


def test_adaptation_learns_from_the_labels_of_the_source_alone(setup):
    rows, net, objective, start = setup
    adapting = adapt(net, lambda z, y: cross_entropy(z["head"], y), [co_tuning(TABLE)], metrics={})
    target = batch(seed=1)
    views = {"source": rows, "target": target}
    found = adapting(start.params, start.stats, views, jax.random.key(0), 0)[0]["co_tuning"]
    alone = objective(start.params, start.stats, rows, None, 0)[0]["co_tuning"]
    np.testing.assert_allclose(found.value, alone.value, rtol=1e-6)
    unlabelled = {"rows": rows, "source": {"x": target["x"]}}
    other = adapt(net, lambda z, y: cross_entropy(z["head"], y), [co_tuning(TABLE)], labelled=["rows"], metrics={})
    with pytest.raises(ValueError, match="'source' has no labels"):
        other(start.params, start.stats, unlabelled, jax.random.key(0), 0)


def test_the_direct_relationship_is_the_mean_prediction_of_a_class():
    draw = np.random.default_rng(0)
    z, y = draw.normal(size=(12, 5)).astype(np.float32), np.arange(12) % 3
    p = np.exp(z / 1.7) / np.exp(z / 1.7).sum(1, keepdims=True)
    expected = np.stack([p[y == t].mean(0) for t in range(3)])
    np.testing.assert_allclose(category_relationship(z, y, classes=3, temperature=1.7), expected, rtol=1e-5)


def test_the_reverse_relationship_is_bayes_rule_on_sklearns_regression():
    linear = pytest.importorskip("sklearn.linear_model")
    draw = np.random.default_rng(1)
    y, held = np.arange(60) % 3, np.arange(30) % 3
    z, more = (3 * np.eye(4)[labels] + draw.normal(size=(len(labels), 4)) for labels in (y, held))
    found = category_relationship(z, y, classes=3, temperature=1.7, validation=(more, held))
    p, q = (np.exp(a / 1.7) / np.exp(a / 1.7).sum(1, keepdims=True) for a in (z, more))
    fits = [linear.LogisticRegression(C=c, max_iter=2000, tol=1e-10).fit(p, y) for c in 10.0 ** np.arange(-4, 5)]
    best = max(fits, key=lambda fit: np.log(fit.predict_proba(q)[np.arange(30), held]).sum())
    given = best.predict_proba(np.eye(4))
    joint = (given * np.concatenate([p, q]).mean(0)[:, None]).T
    np.testing.assert_allclose(found, joint / joint.sum(1, keepdims=True), atol=2e-3)
    assert found.argmax(1).tolist() == [0, 1, 2]


def test_the_temperature_is_that_of_scipys_minimum():
    optimize = pytest.importorskip("scipy.optimize")
    draw = np.random.default_rng(2)
    z, y = 4 * draw.normal(size=(50, 3)), draw.integers(0, 3, 50)
    z[np.arange(50), y] += 3

    def loss(t):
        log_p = z / t - np.log(np.exp(z / t).sum(1, keepdims=True))
        return -log_p[np.arange(50), y].mean()

    expected = optimize.minimize_scalar(loss, bounds=(0.05, 20), method="bounded", options={"xatol": 1e-8}).x
    np.testing.assert_allclose(calibrated_temperature(z, y), expected, rtol=1e-4)


def test_the_temperature_is_compiled_once_for_equal_shapes():
    z, y = np.random.default_rng(3).normal(size=(7, 3)), np.arange(7) % 3
    before = _halved._cache_size()
    for scale in (1, 2, 3):
        calibrated_temperature(scale * z, y, most=10.0 * scale)
    assert _halved._cache_size() == before + 1


def test_bad_input_raises(setup):
    rows, net, _, start = setup
    with pytest.raises(ValueError, match="sum to 1"):
        co_tuning(np.ones((2, 3)))
    with pytest.raises(ValueError, match=r"temperature=0\.0: it must be positive"):
        co_tuning(TABLE, temperature=0.0)
    with pytest.raises(ValueError, match="give all classes some"):
        category_relationship(np.zeros((2, 3)), np.array([0, 2]), classes=3)
    objective = finetune(
        net, lambda z, y: cross_entropy(z["head"], y), [co_tuning(jnp.eye(3), name="other")], metrics={}
    )
    more = objective.init(jax.random.key(0), rows, start)
    with pytest.raises(ValueError, match="needs a head 'source' of 3 classes"):
        objective(more.params, more.stats, rows, None, 0)
    other = finetune(net, lambda z, y: cross_entropy(z["head"], y), [co_tuning(TABLE, head="old")], metrics={})
    with pytest.raises(ValueError, match="needs a head 'old' of 4 classes"):
        other(start.params, start.stats, rows, None, 0)


def test_mixed_labels_mix_the_rows_of_the_relationship(setup):
    rows, net, _, start = setup
    objective = finetune(net, terms=[co_tuning(TABLE)], loss=lambda z, y: cross_entropy(z["head"], y), metrics={})
    first, second = rows["y"], np.roll(rows["y"], 1)
    eye = np.eye(3, dtype=np.float32)
    losses = {
        name: float(objective(start.params, start.stats, {**rows, "y": y}, None, 0)[0]["co_tuning"].value)
        for name, y in {"first": first, "second": second, "mixed": 0.3 * eye[first] + 0.7 * eye[second]}.items()
    }
    assert losses["mixed"] == pytest.approx(0.3 * losses["first"] + 0.7 * losses["second"], rel=1e-5)
