"""GVB-GD against its formula row by row in numpy, with slopes by differences; masks, devices, and predictions."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from nets import batch, dense, largest_difference, top

from jtl import heads
from jtl.methods.adapt.adapt import adapt
from jtl.methods.adapt.gvb import certainty_weights, gvb
from jtl.methods.adapt.views import View
from jtl.metrics.accumulate import total
from jtl.model import Variables
from jtl.networks import network
from jtl.train.parallel.pmap import pmap_step, replicated, split_batch, unreplicated
from jtl.train.parallel.sharding import jit_step, mesh, put_batch
from jtl.train.step import make_step

NET = network(backbone=dense(4), head=heads.bridged(3))
SIZES = {"source": 6, "target": 9}
LAMBDA, MU_G, MU_D = 0.7, 0.3, 0.4


def drawn():
    """Parameters, features and masks."""
    draw = np.random.default_rng(0)
    layer = lambda a, b: {"kernel": draw.normal(size=(a, b)), "bias": draw.normal(size=b)}  # noqa: E731
    params = {"head": {"out": layer(4, 3), "bridge": layer(4, 3)}, "critic": {"out": layer(3, 2)}}
    f = {d: draw.normal(size=(n, 4)) for d, n in SIZES.items()}
    return params, f, {d: draw.random(n) < 0.7 for d, n in SIZES.items()}


def affine(x, layer):
    return x @ layer["kernel"] + layer["bias"].reshape((1,) * (x.ndim - 1) + (-1,))


def by_hand(params, f, masks, constant=None):
    """The adversarial terms with the critic's norm, and the head's norm; the denominators of the weights."""
    adversarial, sigmas, gammas, sums = 0.0, [], [], {}
    for d, label in (("source", 1.0), ("target", 0.0)):
        losses, raw = [], []
        for row in f[d][masks[d]]:
            gamma = affine(row, params["head"]["bridge"])
            z = affine(row, params["head"]["out"]) - gamma
            p = np.exp(z) / np.exp(z).sum()
            first, sigma = affine(p, params["critic"]["out"])
            domain = 1 / (1 + np.exp(-(first - sigma)))
            losses.append(-label * np.log(domain) - (1 - label) * np.log(1 - domain))
            raw.append(np.exp((p * np.log(p)).sum()))
            sigmas.append(np.abs(sigma))
            gammas.append(np.abs(gamma).mean())
        sums[d] = np.sum(raw)
        adversarial += 0.5 * np.dot(raw, losses) / (sums if constant is None else constant)[d]
    return adversarial + MU_D * np.mean(sigmas), MU_G * np.mean(gammas), sums


def views(params, f, masks):
    z = {d: affine(f[d], params["head"]["out"]) - affine(f[d], params["head"]["bridge"]) for d in f}
    return {d: View({"pooled": f[d]}, z[d], None, None, masks[d], {}) for d in f}


def test_value_and_gradients_are_the_formula_row_by_row(key):
    params, f, masks = drawn()
    with jax.enable_x64():
        alignment = gvb(NET, top(2), LAMBDA, bridge=MU_G, critic_bridge=MU_D)

        def run(params, f):
            terms, aux = alignment(params, {}, views(params, f, masks), key, 0)
            return total(terms), ({n: m.value for n, m in terms.items()}, aux.metrics["critic_accuracy"].value)

        given = jax.tree.map(jnp.asarray, (params, f))
        (value, (terms, accuracy)), slopes = jax.jit(jax.value_and_grad(run, (0, 1), has_aux=True))(*given)
    adversarial, norm, sums = by_hand(params, f, masks)
    np.testing.assert_allclose(value, adversarial + norm, rtol=1e-12)
    np.testing.assert_allclose(terms["head_bridge"], norm, rtol=1e-12)
    assert set(terms) == {"critic_source", "critic_target", "critic_bridge", "head_bridge"}
    z = {d: v.output for d, v in views(params, f, masks).items()}
    right = []
    for d, source in (("source", True), ("target", False)):
        e = np.exp(z[d][masks[d]])
        two = affine(e / e.sum(1, keepdims=True), params["critic"]["out"])
        right += [*((two[:, 0] > two[:, 1]) == source)]
    np.testing.assert_allclose(accuracy, np.mean(right), rtol=1e-6)

    leaves, tree = jax.tree.flatten((params, f))
    found = jax.tree.leaves(slopes)
    paths = ["/".join(str(getattr(k, "key", k)) for k in path) for path, _ in jax.tree.leaves_with_path((params, f))]
    for which, (path, leaf) in enumerate(zip(paths, leaves, strict=True)):
        for place in list(np.ndindex(leaf.shape))[:: 1 + leaf.size // 6]:
            ends = []
            for e in (1e-5, -1e-5):
                moved = [a.copy() for a in leaves]
                moved[which][place] += e
                ends.append(by_hand(*jax.tree.unflatten(tree, moved), masks, sums))
            a, b = ((up - down) / 2e-5 for up, down in zip(*(end[:2] for end in ends), strict=True))
            wanted = a if "critic" in path else b - LAMBDA * a  # reversed in front of the critic, times λ
            np.testing.assert_allclose(found[which][place], wanted, atol=1e-9, err_msg=path)
        assert np.abs(found[which]).max() > 1e-3, path


def test_weights_may_be_zero_and_may_follow_the_step(key):
    params, f, masks = drawn()
    params, f = jax.tree.map(np.float32, (params, f))
    still = gvb(NET, top(2), 0.0, bridge=0.0)
    later = gvb(NET, top(2), lambda step: 0.5 * step, bridge=lambda step: 2.0 * step, critic_bridge=lambda step: step)

    def run(params):
        looked = views(params, f, masks)
        found = later(params, {}, looked, key, 3)
        terms, _ = still(params, {}, looked, key, 3)
        return total(terms), (found[0], found[1].metrics["critic_weight"], terms)

    slope, (found, strength, terms) = jax.jit(jax.grad(run, has_aux=True))(params)
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(slope["head"]))
    assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(slope["critic"])) > 1e-2
    np.testing.assert_allclose(found["head_bridge"].value, by_hand(params, f, masks)[1] / MU_G * 6, rtol=1e-5)
    np.testing.assert_allclose(found["critic_bridge"].value, 3 * terms["critic_bridge"].value, rtol=1e-6)
    assert (float(strength), float(terms["head_bridge"].value)) == (1.5, 0.0)


def test_certain_rows_have_finite_gradients():
    """Where a probability underflows, the slope of −p log p alone would be infinite."""
    z = jnp.array([[300.0, 0.0, -300.0], [0.0, 1.0, 0.0]])
    found, slope = jax.value_and_grad(lambda z: (certainty_weights(z) * jnp.array([1.0, 3.0])).sum())(z)
    assert np.isfinite(found)
    assert np.isfinite(slope).all()
    np.testing.assert_allclose(certainty_weights(z, jnp.array([True, False])), [1.0, 0.0], rtol=1e-6)


def rows():
    source = batch(n=16, masked=True)
    target = {"x": batch(n=24, seed=1)["x"] + 0.5, "mask": np.arange(24) % 3 > 0}
    return {"source": source, "target": target}


def test_masked_rows_reach_nothing_and_devices_and_predictions_are_those_of_one(key):
    data = rows()
    objective = adapt(NET, alignments=[gvb(NET, top(2), 0.5)])
    step = make_step(objective, optax.sgd(0.5))
    variables = objective.init(key, data)
    assert sorted(variables.params["head"]) == ["bridge", "out"]
    start, run = step.init(variables, key), jax.jit(step)
    one, metrics = run(start, data)
    assert {"critic_source", "critic_bridge", "head_bridge", "critic_a_distance"} < metrics.keys()
    spoilt = {
        d: {**part, "x": np.where(part["mask"][:, None], part["x"], np.nan).astype(np.float32)}
        for d, part in data.items()
    }
    assert largest_difference(run(start, spoilt)[0].params, one.params) < 1e-6
    eight, many = pmap_step(step)(replicated(start), split_batch(data))
    assert largest_difference(unreplicated(eight).params, one.params) < 1e-6
    for name in metrics:
        np.testing.assert_allclose(np.ravel(many[name])[0], metrics[name], rtol=1e-5, err_msg=name)
    own = {n: one.params[n] for n in ("backbone", "head")}
    said = NET.apply(Variables(own, {}), data["source"]["x"], train=False)[0]
    p = own["head"]
    plain = affine(said.features["pooled"], jax.tree.map(jnp.subtract, p["out"], p["bridge"]))
    np.testing.assert_allclose(said.output, plain, atol=1e-5)
    assert np.abs(plain - affine(said.features["pooled"], p["out"])).max() > 1e-2
    none = {**data, "target": {**data["target"], "mask": np.zeros(24, bool)}}
    after, alone = run(start, none)
    assert alone["critic_target"] == 0
    assert all(np.isfinite(a).all() for a in jax.tree.leaves(after.params))


def test_parts_of_a_batch_on_a_mesh_take_the_step_of_the_whole(key):
    """Each part holds the same rows, so its means of weights are those of the whole."""
    data = {d: {n: a[:16] for n, a in part.items()} for d, part in rows().items()}
    twice = {d: {n: np.repeat(a, 2, axis=0) for n, a in part.items()} for d, part in data.items()}
    objective, grid = adapt(NET, alignments=[gvb(NET, top(2), 0.5)]), mesh()
    whole, parts = make_step(objective, optax.sgd(0.5)), make_step(objective, optax.sgd(0.5), microbatch=2)
    start = whole.init(objective.init(key, data), key)
    wanted, metrics = jax.jit(whole)(start, data)
    run, state = jit_step(parts, start, grid)
    found, others = run(state, put_batch(twice, grid))
    assert largest_difference(jax.device_get(found.params), jax.device_get(wanted.params)) < 1e-6
    for name in metrics:
        np.testing.assert_allclose(others[name], metrics[name], rtol=1e-5, err_msg=name)


def test_both_bridges_vanish_where_nothing_needs_them(key):
    """Equal domains: no critic can tell them apart, and the norms alone move the bridges."""
    data = rows()["source"]
    data = {"source": data, "target": {"x": data["x"], "mask": data["mask"]}}
    objective = adapt(NET, alignments=[gvb(NET, top(2), 1.0)])
    step = make_step(objective, optax.sgd(optax.linear_schedule(0.3, 0.0, 200)))
    state, run, first = step.init(objective.init(key, data), key), jax.jit(step), None
    for _ in range(200):
        state, metrics = run(state, data)
        first = first or metrics
    assert float(first["head_bridge"]) > 0.1
    assert float(metrics["head_bridge"]) < 0.1 * float(first["head_bridge"])
    assert float(metrics["critic_bridge"]) < 0.01


def test_what_does_not_fit_is_refused(key):
    data = rows()
    plain = network(backbone=dense(4), head=heads.linear(3))
    with pytest.raises(ValueError, match=r"the head 'head' has the parameters \['out'\]; give it jtl.heads.bridged"):
        adapt(plain, alignments=[gvb(plain)]).init(key, data)
    with pytest.raises(ValueError, match=r"needs exactly one"):
        gvb(network(backbone=dense(4), one=heads.bridged(3), two=heads.bridged(3)))
    one = adapt(NET, alignments=[gvb(NET, top(1))])
    variables = jax.eval_shape(lambda key: one.init(key, data), key)
    with pytest.raises(ValueError, match=r"the critic returns \(40, 1\) for 40 rows; give \[batch, 2\]"):
        jax.eval_shape(lambda params: one(params, {}, data, key, 0)[0], variables.params)
    with pytest.raises(ValueError, match="a view 'target'"):
        jax.eval_shape(lambda params: one(params, {}, {"source": data["source"]}, key, 0)[0], variables.params)
    for options, message in (
        ({"bridge": -1.0}, r"critic: bridge=-1\.0"),
        ({"critic_bridge": np.inf}, "critic_bridge=inf"),
    ):
        with pytest.raises(ValueError, match=message):
            gvb(NET, **options)
