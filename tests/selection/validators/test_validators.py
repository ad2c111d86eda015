"""Validators against scikit-learn, the papers' formulas by hand, and laws."""

import jax
import jaxtyping
import numpy as np
import pytest

from jtl.selection import validators as v

DRAW = np.random.default_rng(0)
Z = 3 * DRAW.normal(size=(40, 4))
F = DRAW.normal(size=(40, 6)) + Z @ DRAW.normal(size=(4, 6))
P = np.exp(Z) / np.exp(Z).sum(1, keepdims=True)
CERTAIN = 60 * np.eye(4)[np.arange(40) % 4]
COLLAPSED = 60 * np.eye(4)[np.zeros(40, int)]

OF_LOGITS = [v.certainty, v.diversity, v.information_maximisation, v.nuclear_norm, v.soft_neighbourhood_density]


def test_entropies_are_scipys():
    from scipy.stats import entropy

    np.testing.assert_allclose(v.certainty(Z), -entropy(P, axis=1).mean(), rtol=1e-9)
    np.testing.assert_allclose(v.diversity(Z), entropy(P.mean(0)), rtol=1e-9)
    assert v.information_maximisation(Z) == v.diversity(Z) + v.certainty(Z)


def test_the_nuclear_norm_is_the_sum_of_square_roots_of_eigenvalues():
    values = np.sqrt(np.maximum(np.linalg.eigvalsh(P.T @ P), 0)).sum()
    np.testing.assert_allclose(v.nuclear_norm(Z), values / np.sqrt(40 * 4), rtol=1e-6)


@pytest.mark.parametrize("temperature", [0.05, 0.5])
def test_density_row_by_row(temperature):
    total = 0.0
    for i in range(40):
        near = [P[i] @ P[j] / np.linalg.norm(P[i]) / np.linalg.norm(P[j]) / temperature for j in range(40) if j != i]
        q = np.exp(near - np.max(near))
        q /= q.sum()
        total -= np.sum(q * np.log(q))
    for block in (7, 40, 100):
        found = v.soft_neighbourhood_density(Z, temperature, block=block)
        np.testing.assert_allclose(found, total / 40, rtol=1e-9)


@pytest.mark.parametrize("score", OF_LOGITS, ids=lambda f: f.__name__)
def test_scores_are_invariant_to_order_and_scale_of_offset(score):
    order = DRAW.permutation(40)
    np.testing.assert_allclose(score(Z[order]), score(Z), rtol=1e-9)
    np.testing.assert_allclose(score(Z + DRAW.normal(size=(40, 1))), score(Z), rtol=1e-9)
    assert np.isfinite(score(CERTAIN))


def test_what_looks_at_classes_prefers_balanced_certainty_to_collapse():
    for score in (v.information_maximisation, v.nuclear_norm, v.diversity):
        assert score(CERTAIN) > score(Z) or score is v.diversity
        assert score(CERTAIN) > score(COLLAPSED)
    np.testing.assert_allclose(v.information_maximisation(CERTAIN), np.log(4), atol=1e-9)
    np.testing.assert_allclose(v.nuclear_norm(CERTAIN), 1, atol=1e-9)


def test_mutual_information_is_sklearns():
    metrics = pytest.importorskip("sklearn.metrics")
    cases = [(DRAW.integers(0, a, 50), DRAW.integers(0, b, 50)) for a, b in ((3, 4), (1, 3), (2, 2), (7, 3))]
    cases += [
        (np.zeros(5, int), np.zeros(5, int)),
        (np.arange(6), np.arange(6)),
        (np.arange(6) // 2, np.arange(6) // 2),
    ]
    for a, b in cases:
        expected = metrics.adjusted_mutual_info_score(a, b)
        np.testing.assert_allclose(v.adjusted_mutual_information(a, b), expected, atol=1e-9)


def test_clusters_that_are_the_classes_score_one():
    labels = np.arange(40) % 4
    features = 5 * np.eye(4)[labels] + 0.1 * DRAW.normal(size=(40, 4))
    np.testing.assert_allclose(v.class_clustering(features, CERTAIN), 1, atol=1e-9)
    assert v.class_clustering(features, CERTAIN[DRAW.permutation(40)]) < 0.5
    assert v.class_clustering(features, np.tile(CERTAIN[:1], (40, 1))) == 0, "one class of all rows is no good sign"


def test_clusters_are_sklearns_from_the_same_start():
    cluster = pytest.importorskip("sklearn.cluster")
    metrics = pytest.importorskip("sklearn.metrics")
    f = F / np.linalg.norm(F, axis=1, keepdims=True)
    predicted = Z.argmax(1)
    start = np.stack([f[predicted == c].mean(0) for c in range(4)])
    found = cluster.KMeans(4, init=start, n_init=1, algorithm="lloyd", tol=0).fit(f).labels_
    expected = metrics.adjusted_mutual_info_score(predicted, found)
    np.testing.assert_allclose(v.class_clustering(F, Z), expected, atol=1e-9)


def test_the_density_ratio_is_sklearns_classifier():
    linear = pytest.importorskip("sklearn.linear_model")
    source, target = DRAW.normal(size=(60, 3)), DRAW.normal(size=(40, 3)) + 0.7
    x = np.concatenate([source, target])
    scaled = (x - x.mean(0)) / x.std(0)
    for penalty in (1.0, 9.0):
        model = linear.LogisticRegression(C=1 / penalty, tol=1e-10, max_iter=10_000)
        p = model.fit(scaled, np.r_[np.zeros(60), np.ones(40)]).predict_proba(scaled[:60])
        found = v.density_ratio(source, target, source, penalty)
        np.testing.assert_allclose(found, 1.5 * p[:, 1] / p[:, 0], rtol=1e-4)


def test_dev_is_its_control_variate():
    losses, weights = DRAW.random(30), DRAW.random(30) * 2
    w, lw = weights, weights * losses
    covariance = ((lw - lw.mean()) * (w - w.mean())).sum() / 29
    eta = -covariance / (((w - w.mean()) ** 2).sum() / 29)
    np.testing.assert_allclose(v.deep_embedded_validation(losses, weights), lw.mean() + eta * w.mean() - eta, rtol=1e-9)
    scaled = v.deep_embedded_validation(losses, weights / weights.max())
    np.testing.assert_allclose(v.deep_embedded_validation(losses, weights, "max"), scaled, rtol=1e-12)
    np.testing.assert_allclose(v.importance_weighted_risk(losses, weights), lw.mean(), rtol=1e-12)


@pytest.mark.parametrize("scale", [1.0, 1e-9, 1e-14])
def test_dev_of_a_constant_loss_is_the_loss(scale):
    """The control variate removes all variance of the weights, tiny ones too: domains far apart are not the best."""
    weights = scale * np.random.default_rng(1).random(30)
    np.testing.assert_allclose(v.deep_embedded_validation(np.full(30, 0.7), weights), 0.7, rtol=1e-9)


def test_reverse_validation_is_sklearns_ridge():
    linear = pytest.importorskip("sklearn.linear_model")
    source, y = F[:20], Z[:20].argmax(1)
    scaled = (F - F.mean(0)) / F.std(0)
    for penalty in (1.0, 300.0):  # 16 and 11 of 20 are right
        model = linear.Ridge(alpha=penalty).fit(scaled, np.eye(4)[Z.argmax(1)])
        expected = (model.predict((source - F.mean(0)) / F.std(0)).argmax(1) == y).mean()
        assert v.reverse_validation(F, Z, source, y, penalty) == expected


def test_mixval_of_a_linear_model_is_perfect_within_a_class():
    """Half-spaces are convex: a mixture of two rows of a class is of that class."""
    weights = DRAW.normal(size=(6, 4))
    found = v.mixval(lambda x: x @ weights, F)
    assert found["within"] == 1
    assert 0 < found["across"] < 1
    assert v.mixval(lambda x: x @ weights, F) == found
    assert v.mixval(lambda x: np.zeros((len(x), 4)), F)["across"] == 0
    x = np.array([[-1.0], [-1.0], [3.0], [3.0]])  # 0.6 (−1) + 0.4 · 3 is above 0, 0.8 (−1) + 0.2 · 3 below
    across = [v.mixval(lambda x: np.hstack([x, -x]), x, share=share)["across"] for share in (0.6, 0.8)]
    assert across == [0.5, 1.0]
    assert v.mixval(lambda x: np.hstack([x, -x]), x[1:3]) == {"within": 0, "across": 0.5}, "no row is mixed with itself"
    assert len({v.mixval(lambda x: x @ weights, F, seed=seed)["across"] for seed in range(3)}) > 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: v.certainty(np.zeros(3)), r"shape \(3,\)"),
        (lambda: v.certainty(np.array([[0.0, 1.0], [np.nan, 0.0]])), "not finite, the first in row 1"),
        (lambda: v.soft_neighbourhood_density(Z[:1]), "at least two"),
        (lambda: v.soft_neighbourhood_density(Z, 0.0), "temperature=0"),
        (lambda: v.deep_embedded_validation(np.ones(3), np.ones(2)), "for two rows or more"),
        (lambda: v.deep_embedded_validation(np.ones(3), -np.ones(3)), "a weight is -1"),
        (lambda: v.deep_embedded_validation(np.ones(3), np.ones(3), "min"), "normalise='min'"),
        (lambda: v.mixval(lambda x: x, F, share=0.5), "share=0.5"),
        (lambda: v.mixval(lambda x: x, F, share=1.0), "share=1.0"),
        (lambda: v.mixval(lambda x: x, np.ones((3, 2), int)), "int64"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_fit_keeps_the_checkpoint_that_a_validator_prefers(tmp_path):
    """Target labels are read by the oracle alone, and it says so."""
    import jax.numpy as jnp
    import optax
    from nets import dense, top

    import jtl

    net = jtl.network(backbone=dense(8), head=top(3))
    x = DRAW.normal(size=(24, 5)).astype(np.float32)
    y = x[:, :3].argmax(1)
    source = jtl.data.arrays(x, y, batch_size=8, classes=3)
    target = jtl.data.arrays(x + 0.5, batch_size=8, shuffle=False)
    look = v.label_free(net, target, ["im", "dev", "source_accuracy", "mixval"], source=source)
    validation = jtl.Validation(jtl.evaluation(net), source, every=2, watch="im", mode="max", also=[look])
    objective = jtl.finetune(net)
    step = jtl.make_step(objective, optax.adam(1e-2))
    state = step.init(objective.init(jax.random.key(0), source[0]), jax.random.key(1))
    result = jtl.fit(step, state, source, steps=6, validation=validation, progress=False,
                     checkpoints=jtl.Checkpoints(tmp_path / "run"))  # fmt: skip
    scores = {row["step"]: row["im"] for row in result.history if "im" in row}
    assert jtl.Checkpoints(tmp_path / "run").best() == max(scores, key=scores.get)
    variables = jtl.variables(result.state)
    here = look(variables)
    z = np.asarray(net.apply(variables, jnp.asarray(x), train=False)[0].output)
    np.testing.assert_allclose(here["source_accuracy"], (z.argmax(1) == y).mean())
    labelled = jtl.data.arrays(x + 0.5, y, batch_size=8, classes=3, shuffle=False)
    assert set(v.label_free(net, labelled, ["im"], oracle=True)(variables)) == {"im", "ORACLE/accuracy"}
    for scores, message in ((["AUC"], "'AUC'"), (["dev"], "need source=")):
        with pytest.raises(ValueError, match=message):
            v.label_free(net, target, scores)


def test_scores_by_name_are_those_of_the_rows():
    import jtl

    net = jtl.network(backbone=jtl.backbones.identity(), head=jtl.heads.linear(4))
    x, there, y = F[:24].astype(np.float32), F.astype(np.float32) + 2, Z[:24].argmax(1)
    variables = net.init(jax.random.key(0), x)
    head = jax.tree.map(np.asarray, variables.params["head"]["out"])
    z, here = (rows @ head["kernel"] + head["bias"] for rows in (there, x))
    losses = -(here - np.log(np.exp(here).sum(1, keepdims=True)))[np.arange(24), y]
    w = v.cross_fitted_ratio(x, there)
    wanted = {
        "certainty": v.certainty(z),
        "diversity": v.diversity(z),
        "im": v.information_maximisation(z),
        "bnm": v.nuclear_norm(z),
        "snd": v.soft_neighbourhood_density(z),
        "clustering": v.class_clustering(there, z),
        "source_accuracy": v.accuracy(here, y),
        "reverse": v.reverse_validation(there, z, x, y),
        "iw_risk": (w * losses).sum() / w.sum(),
        "dev": v.deep_embedded_validation(losses, w),
        "devn": v.deep_embedded_validation(losses, w, "max"),
    }
    source = jtl.data.arrays(x, y, batch_size=24, classes=4, shuffle=False)
    target = jtl.data.arrays(there, Z.argmax(1), batch_size=40, classes=4, shuffle=False)
    found = v.label_free(net, target, list(wanted), source=source, oracle=True)(variables)
    oracle = (z.argmax(1) == Z.argmax(1)).mean()
    assert found == pytest.approx(wanted | {"mean_weight": w.mean(), "ORACLE/accuracy": oracle}, rel=1e-4)
    assert len({round(float(value), 6) for value in wanted.values()}) == len(wanted)


def test_mixval_by_name_is_that_of_the_rows_that_count():
    from nets import dense, top

    import jtl

    net = jtl.network(backbone=dense(8), head=top(3))
    x = DRAW.normal(size=(10, 5)).astype(np.float32)
    variables = net.init(jax.random.key(0), x)
    target = jtl.data.arrays(x, batch_size=4, shuffle=False)  # the last batch has two rows that do not count
    found = v.label_free(net, target, ["mixval", "im"])(variables)
    parts = v.mixval(lambda x: net.apply(variables, x, train=False)[0].output, x)
    assert 0 < found["mixval"] == pytest.approx(sum(parts.values()) / 2)
    with pytest.raises(ValueError, match="one array; these have"):
        v.label_free(net, [{"x": {"ids": x}}], ["mixval"])(variables)


def test_mixval_makes_each_batch_once():
    from counting import Counted
    from nets import dense, top

    import jtl

    net = jtl.network(backbone=dense(8), head=top(3))
    x = DRAW.normal(size=(10, 5)).astype(np.float32)
    target = Counted(jtl.data.arrays(x, batch_size=4, shuffle=False))
    look = v.label_free(net, target, ["mixval"])
    look(net.init(jax.random.key(0), x))
    assert target.reads == {0: 2, 1: 2, 2: 2}  # the second time for the outputs that other scores read


def test_weights_of_equal_domains_are_near_one():
    """A classifier knows the rows that it was fitted on: in 512 dimensions it told equal domains apart."""
    draw = np.random.default_rng(0)
    source, target = draw.normal(size=(200, 512)), draw.normal(size=(200, 512))
    assert v.density_ratio(source, target, source).mean() < 0.1
    np.testing.assert_allclose(v.cross_fitted_ratio(source, target), 1, atol=1e-9)  # that of the infinite penalty


def test_cross_fitted_weights_are_sklearns_from_the_other_half():
    """With the penalty, of infinity and 100 … 0.01 a feature, whose log loss on both held-out halves is the lowest."""
    linear = pytest.importorskip("sklearn.linear_model")
    draw, order = np.random.default_rng(7), np.random.default_rng(0)
    source, target = draw.normal(size=(40, 6)), draw.normal(size=(30, 6)) + 0.4
    halves = [np.array_split(order.permutation(n), 2) for n in (40, 30)]
    losses, weights = np.zeros((6, 2)), np.zeros((6, 40))
    for p, penalty in enumerate([1e12, 600, 60, 6, 0.6, 0.06]):
        for k in (0, 1):
            x = np.r_[source[halves[0][k]], target[halves[1][k]]]
            mean, std = x.mean(0), x.std(0)
            model = linear.LogisticRegression(C=1 / penalty, tol=1e-10, max_iter=10_000)
            model.fit((x - mean) / std, np.repeat([0, 1], (20, 15)))
            here, there = (x[half[1 - k]] for x, half in zip((source, target), halves, strict=True))
            here, there = (model.predict_log_proba((x - mean) / std) for x in (here, there))
            losses[p, k] = -here[:, 0].sum() - there[:, 1].sum()
            weights[p, halves[0][1 - k]] = 20 / 15 * np.exp(here[:, 1] - here[:, 0])
    best = losses.sum(1).argmin()
    assert len({best, 0, *losses.argmin(0)}) == 4, "neither half alone would choose it, nor is it infinity"
    np.testing.assert_allclose(v.cross_fitted_ratio(source, target), weights[best], rtol=1e-3)


def test_cross_fitted_weights_do_not_depend_on_rows_in_the_order_of_their_classes():
    """Two classes of 1/2 and 1/2 in the source, 3/4 and 1/4 in the target: halves in order would hold one each."""
    source, target = (np.repeat([[1.0], [-1.0]], counts, axis=0) for counts in ((200, 200), (300, 100)))
    found = v.cross_fitted_ratio(source, target)
    np.testing.assert_allclose([found[:200].mean(), found[200:].mean()], [1.5, 0.5], atol=0.1)


def test_cross_fitted_weights_are_the_ratio_of_normal_densities():
    draw = np.random.default_rng(0)
    source, target = draw.normal(size=(2000, 1)), draw.normal(size=(1500, 1)) + 0.5
    found = v.cross_fitted_ratio(source, target)
    true = np.exp(0.5 * source[:, 0] - 0.125)  # N(x; ½, 1) / N(x; 0, 1)
    np.testing.assert_allclose(np.log(found), np.log(true), atol=0.25)
    np.testing.assert_allclose(found.mean(), 1, atol=0.05)


def test_the_domain_classifier_along_a_path_is_sklearns():
    linear = pytest.importorskip("sklearn.linear_model")
    from jtl.selection.validators.domain_classifier import fitted

    draw = np.random.default_rng(0)
    for width in (3, 60):  # with fewer rows than features too
        source, target = draw.normal(size=(20, width)), draw.normal(size=(15, width)) + 1
        x = np.concatenate([source, target])
        x = (x - x.mean(0)) / x.std(0)
        penalties = (np.inf, 10.0, 0.1)
        for penalty, found in zip(penalties, fitted(source, target, penalties), strict=True):
            model = linear.LogisticRegression(C=1 / penalty if penalty < np.inf else 1e-12, tol=1e-12, max_iter=100_000)
            p = model.fit(x, np.r_[np.zeros(20), np.ones(15)]).predict_log_proba(x)
            np.testing.assert_allclose(found.logit(np.r_[source, target]), p[:, 1] - p[:, 0], atol=1e-4)
            np.testing.assert_allclose(found.loss(source, target), -p[:20, 0].sum() - p[20:, 1].sum(), rtol=1e-4)


def test_scores_of_the_source_do_not_fall_with_the_distance_of_the_domains():
    """The losses are the same, so a checkpoint whose features are further apart is no better."""
    import jtl
    from jtl.selection.validators.watch import label_free

    draw, width = np.random.default_rng(0), 32
    x, y = draw.normal(size=(200, width)).astype(np.float32), draw.integers(0, 3, 200)
    source = jtl.data.arrays(x, y, batch_size=100, classes=3, shuffle=False)
    net = jtl.network(backbone=jtl.backbones.identity(), head=jtl.heads.linear(3))
    variables = jax.tree.map(np.zeros_like, net.init(jax.random.key(0), x))  # each loss is ln 3
    means = []
    for shift in (0.0, 0.5, 2.0):
        there = (draw.normal(size=(200, width)) + shift).astype(np.float32)
        target = jtl.data.arrays(there, batch_size=100, shuffle=False)
        found = label_free(net, target, ["iw_risk", "dev"], source=source)(variables)
        np.testing.assert_allclose([found["iw_risk"], found["dev"]], np.log(3), rtol=1e-5)
        means.append(found["mean_weight"])
    np.testing.assert_allclose(means[0], 1, atol=0.05)
    assert means[2] < 0.5


NAN = np.where(np.eye(40, 4) > 0, np.nan, Z)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: v.accuracy(NAN, np.zeros(40, int)), "4 values that are not finite, the first in row 0"),
        (lambda: v.accuracy(Z, np.array([1])), r"y has shape \(1,\) .* for each of 40 rows"),
        (lambda: v.class_clustering(F, NAN), "logits has 4 values"),
        (lambda: v.class_clustering(np.where(F > 9, F, np.inf), Z), "features has .* not finite"),
        (lambda: v.reverse_validation(F, NAN, F, np.zeros(40, int)), "logits has 4 values"),
        (lambda: v.reverse_validation(F, Z, F * np.nan, np.zeros(40, int)), "source has 240 values"),
        (lambda: v.mixval(lambda x: x * np.nan, F), "logits has 240 values"),
        (lambda: v.mixval(lambda x: x[:3], F), "logits has 3 rows: give 40"),
        (lambda: v.density_ratio(F, F, F, penalty=-1.0), "penalty=-1"),
        (lambda: v.cross_fitted_ratio(F[:1], F), "1 source and 40 target rows"),
        (lambda: v.importance_weighted_risk(np.array([1, np.nan]), np.ones(2)), "not finite"),
    ],
)
def test_what_is_no_number_is_no_prediction(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: v.accuracy(Z, np.zeros((40, 1), int)), r"y has shape \(40, 1\)"),
        (lambda: v.class_clustering(F[:5], Z), "logits has 40 rows: give 5"),
        (lambda: v.adjusted_mutual_information(np.zeros(3), np.zeros(2)), r"shape \(3,\) and b of shape \(2,\)"),
        (lambda: v.reverse_validation(F, Z, F[:, :2], np.zeros(40, int)), "features of one width"),
        (lambda: v.density_ratio(F, F, F[:, :2]), r"at \(40, 2\): give one width"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(call, message):
    """By the types where the tests check these, else in words."""
    with pytest.raises((ValueError, jaxtyping.TypeCheckError), match=f"Type-check error|{message}"):
        call()


@pytest.mark.parametrize("outside", [-1, -100, 3])
def test_a_label_outside_the_classes_has_no_loss(outside):
    import jtl

    x = DRAW.normal(size=(8, 5)).astype(np.float32)
    net = jtl.network(backbone=jtl.backbones.identity(), head=jtl.heads.linear(3))
    variables = net.init(jax.random.key(0), x)
    rows = [{"x": x, "y": np.array([0, 1, outside, 0, 1, 2, 0, 1]), "mask": np.ones(8, np.float32)}]
    with pytest.raises(ValueError, match=f"y is {outside} in row 2: labels of 3 classes are 0 to 2"):
        v.label_free(net, rows, ["iw_risk"], source=rows)(variables)
