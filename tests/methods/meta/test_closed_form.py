"""Learners in closed form against sklearn, torch and sums over rows; masks, classes without support, chains."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from few_shot import few_shot, tasks_of
from nets import dense, largest_difference, normed, parts, top

from jtl import heads
from jtl.methods.finetune.finetune import finetune
from jtl.methods.meta.chained import chained
from jtl.methods.meta.feat import feat
from jtl.methods.meta.implicit import implicit
from jtl.methods.meta.inner_loop import adapt_to
from jtl.methods.meta.mahalanobis import mahalanobis
from jtl.methods.meta.maml import meta
from jtl.methods.meta.memory import centred, matching, memorise, nearest_mean, relation, relation_error
from jtl.methods.meta.new_head import new_head
from jtl.methods.meta.prototypes import prototypes
from jtl.methods.meta.ridge import ridge
from jtl.methods.meta.self_supported import self_supported
from jtl.methods.meta.support_vectors import support_vectors
from jtl.methods.meta.svm import svm
from jtl.methods.meta.update_rules import fixed_rate, from_optax, learned_rate
from jtl.metrics.accumulate import total
from jtl.model import Variables
from jtl.networks import network
from jtl.params import flatten, select

WAY = 3


@pytest.fixture(scope="module")
def case():
    """A network, its variables, a support set of 12 and queries of 9, and the features of both, in float64."""
    with jax.enable_x64(True):
        net = network(backbone=dense(6), head=heads.linear(WAY))
        draw = np.random.default_rng(0)
        x = jnp.asarray(draw.normal(size=(21, 5)))
        y = np.tile(np.arange(WAY), 7)
        variables = jax.tree.map(lambda a: a.astype(jnp.float64), net.init(jax.random.key(0), x))
        z = np.asarray(net.apply(variables, x, train=False)[0].read)
    support, query = ({"x": x[cut], "y": jnp.asarray(y[cut])} for cut in (slice(0, 12), slice(12, 21)))
    return net, variables, support, query, z[:12], z[12:]


def outputs(net, adapt, variables, support, query, key):
    params, stats = adapt(variables.params, variables.stats, support, key)
    return np.asarray(net.apply(Variables(params, stats), query["x"], train=False)[0].output)


def test_prototypes_are_distances_to_class_means(case, key):
    from scipy.spatial.distance import cdist
    from sklearn.neighbors import NearestCentroid

    net, variables, support, query, z, q = case
    with jax.enable_x64(True):
        found = outputs(net, prototypes(net), variables, support, query, key)
    centroids = NearestCentroid().fit(z, support["y"])
    expected = -cdist(q, centroids.centroids_, "sqeuclidean") + (q**2).sum(1)[:, None]
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert (found.argmax(1) == centroids.predict(q)).all()


def test_ridge_is_sklearns(case, key):
    """With more examples than features and with fewer."""
    from sklearn.linear_model import Ridge

    net, variables, support, query, z, q = case
    with jax.enable_x64(True):
        adapt = ridge(net, strength=0.7, scale=2.5)
        for rows in (12, 4):
            few = {n: v[:rows] for n, v in support.items()}
            start = adapt.init(key, few, variables)
            start.params["rule"]["bias"] = jnp.asarray(0.3)
            found = outputs(net, adapt, start, few, query, key)
            reference = Ridge(alpha=0.7, fit_intercept=False).fit(z[:rows], np.eye(WAY)[few["y"]])
            np.testing.assert_allclose(found, 2.5 * reference.predict(q) + 0.3, rtol=1e-6)  # log λ is float32
            weights = np.linspace(0.5, 2, rows)
            found = outputs(net, adapt, start, {**few, "weights": jnp.asarray(weights)}, query, key)
            reference.fit(z[:rows], np.eye(WAY)[few["y"]], sample_weight=weights)
            np.testing.assert_allclose(found, 2.5 * reference.predict(q) + 0.3, rtol=1e-6)


def test_the_support_vector_machine_is_liblinears(case, key):
    """With weights; and its gradient is that of differences of the solution."""
    from sklearn.svm import LinearSVC

    net, variables, support, query, z, q = case
    weights, y = np.linspace(0.5, 2, 12), np.asarray(support["y"])
    reference = LinearSVC(multi_class="crammer_singer", fit_intercept=False, C=0.1, tol=1e-12, max_iter=1_000_000)
    reference.fit(z, y, sample_weight=weights)
    with jax.enable_x64(True):
        adapt = svm(net, scale=2.5)
        start = adapt.init(key, support, variables)
        found = outputs(net, adapt, start, {**support, "weights": jnp.asarray(weights)}, query, key)
        np.testing.assert_allclose(found, 2.5 * reference.decision_function(q), rtol=1e-5, atol=1e-7)
        cost, there = jnp.asarray(0.1 * weights), jnp.ones(WAY, bool)
        cubes = jax.jit(lambda z: (support_vectors(z, jax.nn.one_hot(y, WAY, dtype=z.dtype), cost, there) ** 3).sum())
        way = 1e-5 * np.random.default_rng(1).normal(size=z.shape)
        slope = (jax.jit(jax.grad(cubes))(jnp.asarray(z)) * way).sum()
        np.testing.assert_allclose(slope, (cubes(z + way) - cubes(z - way)) / 2, rtol=1e-5)


def with_head(case, head, key):
    _, variables, support, query, z, q = case
    other = network(backbone=dense(6), head=head)
    made = memorise(other, way=WAY).init(key, support, Variables({"backbone": variables.params["backbone"]}, {}))
    return other, jax.tree.map(lambda a: a.astype(jnp.float64), made), support, query, z, q


def test_matching_is_attention_over_the_support_set(case, key):
    from sklearn.metrics.pairwise import cosine_similarity

    with jax.enable_x64(True):
        net, variables, support, query, z, q = with_head(case, matching(0.05), key)
        found = jax.nn.softmax(outputs(net, memorise(net, way=WAY), variables, support, query, key))
    a = np.exp(cosine_similarity(q, z) / 0.05)
    expected = (a / a.sum(1, keepdims=True)) @ np.eye(WAY)[support["y"]]
    np.testing.assert_allclose(found, expected, rtol=1e-6)  # a length is rounded up by 1e-12 of its square


def test_relations_are_of_class_sums(case, key):
    with jax.enable_x64(True):
        net, variables, support, query, z, q = with_head(case, relation(heads.mlp(1, (4,))), key)
        found = outputs(net, memorise(net, way=WAY), variables, support, query, key)
    head = jax.tree.map(np.asarray, variables.params["head"])
    for i, row in enumerate(q):
        for k in range(WAY):
            h = np.concatenate([z[np.asarray(support["y"]) == k].sum(0), row])
            h = np.maximum(h @ head["hidden1"]["kernel"] + head["hidden1"]["bias"], 0)
            np.testing.assert_allclose(
                found[i, k], h @ head["out"]["kernel"][:, 0] + head["out"]["bias"][0], rtol=1e-10
            )
    y = np.asarray(query["y"])
    expected = ((1 / (1 + np.exp(-found)) - np.eye(WAY)[y]) ** 2).sum(1)
    np.testing.assert_allclose(relation_error(jnp.asarray(found, jnp.float32), query["y"]), expected, rtol=1e-5)


@pytest.mark.parametrize("normalise", [True, False])
def test_simpleshot_is_the_nearest_centroid_of_centred_features(case, key, normalise):
    from sklearn.neighbors import NearestCentroid
    from sklearn.preprocessing import normalize

    with jax.enable_x64(True):
        net, variables, support, query, z, q = with_head(case, nearest_mean(normalise=normalise), key)
        centre = np.linspace(0, 1, 6)
        variables = centred(net, variables, jnp.asarray(centre + np.array([[1.0], [-1.0]])))
        found = outputs(net, memorise(net, way=WAY, train=False), variables, support, query, key)
    u, v = (normalize(a - centre) if normalise else a - centre for a in (z, q))
    reference = NearestCentroid().fit(u, support["y"])
    np.testing.assert_array_equal(found.argmax(1), reference.predict(v))
    expected = -((v[:, None] - reference.centroids_[None]) ** 2).sum(-1)
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_mahalanobis_distances_are_scipys(case, key):
    """With numpy's covariances; of one example alone that of its class is 0."""
    from scipy.spatial.distance import cdist

    with jax.enable_x64(True):
        net, variables, support, query, z, q = with_head(case, mahalanobis(strength=0.5), key)
        kept = np.arange(12) != 3
        for few in (False, True):  # of class 2 one example
            rows = kept if not few else kept & ((np.asarray(support["y"]) != 2) | (np.arange(12) == 2))
            found = outputs(net, memorise(net, way=WAY), variables, {**support, "mask": jnp.asarray(rows)}, query, key)
            y = np.asarray(support["y"])
            for c in range(WAY):
                own = z[rows & (y == c)]
                cov = np.cov(own.T) if len(own) > 1 else np.zeros((6, 6))
                share = len(own) / (len(own) + 1)
                metric = share * cov + (1 - share) * np.cov(z[rows].T) + 0.5 * np.eye(6)
                wanted = -(cdist(q, own.mean(0)[None], "mahalanobis", VI=np.linalg.inv(metric))[:, 0] ** 2)
                np.testing.assert_allclose(found[:, c], wanted, rtol=1e-9)


LEARNERS = {
    "prototypes": (heads.linear(WAY), prototypes),
    "ridge": (heads.linear(WAY), ridge),
    "svm": (heads.linear(WAY), partial(svm, steps=100)),
    "matching": (matching(), lambda net: memorise(net, way=WAY)),
    "relation": (relation(heads.mlp(1, (4,))), lambda net: memorise(net, way=WAY)),
    "nearest_mean": (nearest_mean(), lambda net: memorise(net, way=WAY)),
    "mahalanobis": (mahalanobis(), lambda net: memorise(net, way=WAY)),
    "feat": (feat(), lambda net: memorise(net, way=WAY)),
}


@pytest.mark.parametrize("name", LEARNERS)
def test_masked_rows_are_as_if_absent(key, name):
    """Even where they hold NaN, in the value and in the gradient; and of no rows at all the gradient is finite."""
    head, make = LEARNERS[name]
    net = network(backbone=dense(6), head=head)
    rows = few_shot(tasks=2, shot=9, query=6)
    rows["support"]["y"] = np.tile(np.arange(9, dtype=np.int32) % WAY, (2, 1))
    objective = meta(make(net), finetune(net))
    params, stats = objective.init(key, rows)
    cut = {**rows, "support": {n: v[:, :6] for n, v in rows["support"].items()}}
    mask = np.arange(9)[None] < np.full((2, 1), 6)
    padded = {n: v.copy() for n, v in rows["support"].items()} | {"mask": mask}
    padded["x"][:, 6:] = np.nan

    @jax.jit
    def run(rows):
        return jax.jit(jax.value_and_grad(lambda p: total(objective(p, stats, rows, key, 0)[0])))(params)

    (a, ga), (b, gb) = run(cut), run({**rows, "support": padded})
    np.testing.assert_allclose(a, b, rtol=1e-5)
    for one, other in zip(jax.tree.leaves(ga), jax.tree.leaves(gb), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)  # the slope at a zero feature is 1e6
    assert all(float(jnp.abs(g).max()) > 0 for g in jax.tree.leaves(ga["backbone"]))
    none = {**rows, "support": {**padded, "mask": np.zeros_like(mask)}}
    empty, grads = run(none)
    assert np.isfinite(empty)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))


@pytest.mark.parametrize("name", [*LEARNERS, "maml"])
@pytest.mark.parametrize("label", [-1, WAY])
def test_a_label_of_no_class_gives_nan_and_a_masked_one_nothing(key, name, label):
    """One row of one task; the inner loop's gradient alone, of MAML, would be finite without a word."""
    head, make = LEARNERS.get(name, (heads.linear(WAY), lambda net: adapt_to(finetune(net), fixed_rate(0.1), steps=1)))
    net = network(backbone=dense(6), head=head)
    rows = few_shot(tasks=2, shot=9, query=6)
    rows["support"]["y"] = np.tile(np.arange(9, dtype=np.int32) % WAY, (2, 1))
    rows["support"]["mask"] = np.ones((2, 9), bool)
    objective = meta(make(net), finetune(net))
    params, stats = objective.init(key, rows)
    run = jax.jit(lambda rows: total(objective(params, stats, rows, key, 0)[0]))
    bad, masked = ({n: v.copy() for n, v in rows["support"].items()} for _ in range(2))
    bad["y"][1, 4] = masked["y"][1, 4] = label
    masked["mask"][1, 4] = False
    right = {n: v.copy() for n, v in masked.items()} | {"y": rows["support"]["y"]}
    assert np.isnan(run({**rows, "support": bad}))
    assert run({**rows, "support": masked}) == run({**rows, "support": right})


def test_relation_error_of_a_label_of_no_class_is_nan():
    found = np.asarray(relation_error(jnp.zeros((3, 2)), jnp.array([0, -1, 2])))
    assert found[0] == 0.5
    assert np.isnan(found[1:]).all()


@pytest.mark.parametrize("name", LEARNERS)
def test_a_class_without_support_gets_no_probability(key, name):
    """Its logit is −∞, and the loss of the other classes and its gradient are finite, as with smaller `way`."""
    head, make = LEARNERS[name]
    net = network(backbone=dense(6), head=head)
    rows = few_shot(tasks=2, shot=6, query=6)
    for half in rows.values():
        half["y"] = np.tile(np.arange(6, dtype=np.int32) % 2, (2, 1))  # of three classes two
    objective = meta(make(net), finetune(net))
    params, stats = objective.init(key, rows)
    loss, grads = jax.jit(jax.value_and_grad(lambda p: total(objective(p, stats, rows, key, 0)[0])))(params)
    assert np.isfinite(loss)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))
    support = {n: v[0] for n, v in rows["support"].items()}
    fast = Variables(*make(net)(params, stats, support, key))
    out = np.asarray(net.apply(fast, support["x"], train=False)[0].output)
    assert (out[:, 2] == -np.inf).all()
    assert np.isfinite(out[:, :2]).all()


def test_protomaml_is_gradient_steps_from_the_prototypes(key):
    rows = few_shot()
    net, _, variables = parts(key, rows["support"]["x"][0])
    inner = finetune(net)
    adapt = chained(prototypes(net), adapt_to(inner, learned_rate(0.1), steps=2))
    params, stats = adapt.init(key, tasks_of(rows["support"])[0], variables)
    assert sorted(params) == ["backbone", "head", "rule"]
    support = {**tasks_of(rows["support"])[1], "y": np.arange(6, dtype=np.int32) % WAY}
    found, _ = adapt(params, stats, support, key)
    fast, _ = prototypes(net)(variables.params, {}, support, key)
    for _ in range(2):
        g = jax.jit(jax.grad(lambda p: total(inner(p, {}, support, key, 0)[0])))(fast)
        fast = jax.tree.map(lambda p, g: p - 0.1 * g, fast, g)
    assert largest_difference(found, fast) < 1e-5
    loss = jax.jit(jax.grad(lambda p: total(meta(adapt, inner)(p, {}, rows, key, 0)[0])))(params)
    assert all(float(jnp.abs(g).max()) > 0 for g in jax.tree.leaves((loss["backbone"], loss["rule"]["head"])))


STEPS = {
    "gradient descent": lambda inner: adapt_to(inner, fixed_rate(0.1), steps=2),
    "weight decay": lambda inner: adapt_to(inner, from_optax(optax.adamw(0.1, eps_root=1e-8)), steps=2),
    "implicit": lambda inner: implicit(inner, fixed_rate(0.1), steps=2, strength=1.0, solves=2),
}


@pytest.mark.parametrize("name", STEPS)
def test_steps_from_prototypes_are_finite_where_a_class_is_absent(key, name):
    """Loss and gradient are those of a network without the class, by steps that decay and compare its bias too."""
    rows = few_shot(tasks=2)
    for half in rows.values():
        half["y"] = np.tile(np.arange(half["y"].shape[1], dtype=np.int32) % 2, (2, 1))  # of three classes two
    found = []
    for way in (2, WAY):
        net = network(backbone=dense(6), head=heads.linear(way))
        inner = finetune(net)
        objective = meta(chained(prototypes(net), STEPS[name](inner)), inner)
        params, stats = objective.init(key, rows)
        run = jax.jit(jax.value_and_grad(lambda p, o=objective, s=stats: total(o(p, s, rows, key, 0)[0])))
        loss, grads = run(params)
        found.append((loss, grads["backbone"]))
    assert float(found[0][0]) > 0
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), *found)


def test_a_probe_draws_its_head_and_leaves_the_backbone(key):
    """From a network of other classes; Baseline++ is that with the cosine head."""
    rows = few_shot()
    support = tasks_of(rows["support"])[0]
    _, _, pretrained = parts(key, support["x"], classes=10)
    for head in (top(WAY), heads.cosine(WAY)):
        net = network(backbone=dense(16, 8), head=head)
        probe = adapt_to(finetune(net), fixed_rate(0.5), steps=20, adapted=select("head/.*"))
        adapt = chained(new_head(net), probe)
        params, stats = adapt.init(key, support, pretrained)
        a, b = (adapt(params, stats, support, jax.random.key(i))[0] for i in range(2))
        jax.tree.map(np.testing.assert_array_equal, a["backbone"], pretrained.params["backbone"])
        assert a["head"]["out"]["kernel"].shape == (8, WAY)
        assert largest_difference(a["head"], b["head"]) > 1e-3, "another key, another head"
        start, _ = new_head(net)(params, stats, support, jax.random.fold_in(jax.random.key(0), 0))
        before, after = (total(finetune(net)(p, {}, support, key, 0)[0]) for p in (start, a))
        assert after < before - 0.05


def test_a_support_set_as_its_own_queries(key):
    """The loss is that of prototypes on the augmented set; steps on it and prototypes again are P>M>F."""
    rows = few_shot()
    net, _, variables = parts(key, rows["support"]["x"][0])
    support, inner = tasks_of(rows["support"])[0], finetune(net)
    found = self_supported(prototypes(net), inner, lambda key, x: 2 * x)(variables.params, {}, support, key, 0)[0]
    fast, _ = prototypes(net)(variables.params, {}, support, key)
    np.testing.assert_allclose(total(found), total(inner(fast, {}, {**support, "x": 2 * support["x"]}, key, 0)[0]))
    objective = self_supported(prototypes(net), inner, lambda key, x: x + 0.1 * jax.random.normal(key, x.shape))
    adapt = chained(adapt_to(objective, fixed_rate(0.1), steps=5, order=1), prototypes(net))
    tuned, _ = adapt(*adapt.init(key, support, variables), support, key)
    again, _ = prototypes(net)({**tuned, "head": variables.params["head"]}, {}, support, key)
    np.testing.assert_allclose(tuned["head"]["out"]["kernel"], again["head"]["out"]["kernel"], rtol=1e-6)
    assert largest_difference(tuned["backbone"], variables.params["backbone"]) > 1e-4


def test_what_does_not_fit_is_refused(key):
    rows = few_shot()
    support = tasks_of(rows["support"])[0]
    net, _, variables = parts(key, support["x"])
    steps = adapt_to(finetune(net), learned_rate(), steps=1)
    with pytest.raises(ValueError, match="give two or more"):
        chained(steps)
    with pytest.raises(ValueError, match=r"parameters under \[\['rule'\], \['rule'\]\]"):
        chained(steps, steps).init(key, support)
    two = network(backbone=dense(6), a=top(3), b=top(3))
    with pytest.raises(ValueError, match=r"has the heads \['a', 'b'\]"):
        prototypes(two)
    cosine = network(backbone=dense(6), head=heads.cosine(WAY))
    with pytest.raises(ValueError, match="is set in closed form"):
        prototypes(cosine)(*cosine.init(key, support["x"]), support, key)
    with pytest.raises(ValueError, match="strength=0"):
        ridge(net, strength=0)
    with pytest.raises(ValueError, match="temperature=0"):
        matching(0)
    with pytest.raises(ValueError, match="way=0"):
        memorise(net, way=0)
    forgetful = network(backbone=normed(8), head=matching())
    with pytest.raises(ValueError, match="has none: adapt with memorise"):
        forgetful.apply(forgetful.init(key, support["x"]), support["x"], train=False)
    with pytest.raises(ValueError, match=r"no centre of shape \(8,\)"):
        centred(net, variables, jnp.zeros((2, 8)))
    wide = network(backbone=dense(6), head=relation(heads.linear(2)))
    adapt = memorise(wide, way=WAY)
    with pytest.raises(ValueError, match="give one number each"):
        wide.apply(Variables(*adapt(*adapt.init(key, support), support, key)), support["x"], train=False)
    assert flatten(adapt.init(key, support).params).keys() == flatten(wide.init(key, support["x"]).params).keys()
