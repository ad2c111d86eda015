"""Bi-Tuning's queues against a loop over rows, in NumPy, with lists."""

from collections import deque

import jax
import numpy as np
import optax
import pytest
from nets import batch, largest_difference, normed, parts, top

import jtl
from jtl.methods.finetune.bi_tuning_queue import bi_tuning_queue
from jtl.methods.finetune.finetune import finetune
from jtl.model import Variables
from jtl.networks import network
from jtl.params import flatten
from jtl.train.parallel.pmap import pmap_step, replicated, split_batch, unreplicated
from jtl.train.step import make_step

SIZE, T = 3, 0.5


@pytest.fixture(scope="module")
def setup():
    rows = batch(n=16, masked=True)
    net, _, start = parts(jax.random.key(0), rows["x"])
    start = jax.tree.map(lambda a: a + 0.1, start)  # a bias that is not 0
    objective = finetune(net, terms=[bi_tuning_queue(net, 0.5, width=4, size=SIZE, momentum=0.6, temperature=T)])
    return net, objective, objective.init(jax.random.key(1), rows, start), jax.jit(objective.loss)


def unit(a):
    return a / np.linalg.norm(a, axis=-1, keepdims=True)


class Reference:
    """The formulas, one row after another."""

    def __init__(self, net, params):
        self.net, self.encoder = net, jax.tree.map(np.asarray, params)
        self.z, self.h = ({c: deque(maxlen=SIZE) for c in range(3)} for _ in range(2))

    def seen(self, params, x):
        f = np.asarray(
            self.net.parts["backbone"].apply(Variables(params["backbone"], {}), x, train=False)[0]["pooled"], np.float64
        )
        return unit(f @ np.asarray(params["bi_tuning"]["kernel"])), unit(np.c_[f, np.ones(len(f))])

    def terms(self, params, rows):
        z, h = self.seen(params, rows["x"])
        z_key, h_key = self.seen(self.encoder, rows["x"])
        head = params["head"]["out"]
        w = unit(np.r_[head["kernel"], head["bias"][None]].T.astype(np.float64))
        found, kept = {"rows": [], "classes": []}, np.flatnonzero(rows["mask"])
        for i in kept:
            c = rows["y"][i]
            for name, own, score, keys in (
                ("rows", z[i] @ z_key[i], lambda k, i=i: z[i] @ k, self.z),
                ("classes", h[i] @ w[c], lambda k, c=c: w[c] @ k, self.h),
            ):
                positive = [own, *map(score, keys[c])]
                every = positive + [score(k) for other in range(3) if other != c for k in keys[other]]
                total = np.log(np.exp(np.array(every) / T).sum())
                found[name].append(total - np.mean(positive) / T)
        for i in kept:
            self.z[rows["y"][i]].append(z_key[i])
            self.h[rows["y"][i]].append(h_key[i])
        return {name: 0.5 * np.mean(values) for name, values in found.items()}

    def moved(self, params):
        self.encoder = jax.tree.map(lambda a, b: 0.6 * a + 0.4 * np.asarray(b), self.encoder, params)


def test_the_terms_over_steps_are_those_of_lists_of_keys(setup):
    """The encoder's average, masks, queues that fill up and turn over, and a batch of more than K rows of a class."""
    net, objective, start, loss = setup
    params, stats, reference = start.params, start.stats, Reference(net, start.params)
    commit = jax.jit(objective.commit)
    for i in range(4):
        rows = batch(n=16, seed=i, masked=True)
        if i == 2:
            rows["y"][:12] = 1
        poisoned = {**rows, "x": np.where(rows["mask"][:, None], rows["x"], np.nan)}
        terms, aux = loss(params, stats, poisoned, jax.random.key(i), i)
        for name, value in reference.terms(params, rows).items():
            np.testing.assert_allclose(
                terms[f"bi_tuning_{name}"].value, value, rtol=2e-5, atol=1e-6, err_msg=f"{name} {i}"
            )
        params = jax.tree.map(lambda a, i=i: a + 0.2 * np.cos(i + np.arange(a.size)).reshape(a.shape), params)
        stats = commit(aux.stats, params)
        reference.moved(params)
    state = stats["bi_tuning"]
    for c in range(3):
        order = (int(state["count"][c]) - np.arange(SIZE, 0, -1)) % SIZE
        np.testing.assert_allclose(state["rows"][c][order], list(reference.z[c]), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(state["features"][c][order], list(reference.h[c]), rtol=1e-4, atol=1e-5)


def test_evaluation_leaves_the_queues_and_keys_and_classifier_get_no_gradient(setup):
    _, objective, start, filled = setup
    rows = batch(n=16, masked=True)
    start = start._replace(stats=filled(start.params, start.stats, batch(n=16, seed=1), jax.random.key(0), 0)[1].stats)
    rows["x"] = np.where(rows["mask"][:, None], rows["x"], np.nan)
    aux = objective(start.params, start.stats, rows, None, 0)[1]
    assert largest_difference(aux.stats, start.stats) == 0

    def loss(params, stats, floats):
        stats = {**stats, "bi_tuning": {**stats["bi_tuning"], **floats}}
        terms = objective(params, stats, rows, jax.random.key(0), 0)[0]
        return terms["bi_tuning_rows"].value + terms["bi_tuning_classes"].value

    floats = {"encoder": start.stats["bi_tuning"]["encoder"]}
    own, keys = jax.jit(jax.grad(loss, (0, 2)))(start.params, start.stats, floats)
    flat = {path: float(np.abs(leaf).max()) for path, leaf in flatten(own).items()}
    assert all(np.isfinite(value) for value in flat.values())
    assert min(flat["bi_tuning/kernel"], flat["backbone/layer0/kernel"]) > 1e-4
    assert flat["head/out/kernel"] == 0 == max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(keys))


def test_eight_devices_are_one(setup):
    _, objective, start, _ = setup
    step = make_step(objective, optax.sgd(0.1))
    given = [batch(n=16, seed=i, masked=True) for i in (0, 1)]
    one, run, spread = step.init(start, jax.random.key(0)), jax.jit(step), pmap_step(step)
    many = replicated(one)
    for rows in given:
        one, many = run(one, rows)[0], spread(many, split_batch(rows))[0]
    found = jax.device_get(unreplicated(many))
    assert largest_difference((found.params, found.stats), (one.params, one.stats)) < 1e-5
    assert int(one.stats["bi_tuning"]["count"].sum()) == sum(int(rows["mask"].sum()) for rows in given)


@pytest.mark.parametrize("label", [-1, 3])
def test_a_row_whose_label_is_no_class_does_not_count(setup, label):
    _, _, start, loss = setup
    rows = batch(n=16, masked=True)
    i = np.flatnonzero(rows["mask"])[0]
    ignored = {**rows, "y": rows["y"].copy()}
    ignored["y"][i], rows["mask"][i] = label, False
    terms, aux = loss(start.params, start.stats, ignored, jax.random.key(0), 0)
    wanted, without = loss(start.params, start.stats, rows, jax.random.key(0), 0)
    for name in ("bi_tuning_rows", "bi_tuning_classes"):
        np.testing.assert_allclose(terms[name].value, wanted[name].value, rtol=1e-5)
    assert largest_difference(aux.stats, without.stats) < 1e-6


def test_bad_input_raises(setup):
    net, objective, start, _ = setup
    rows = batch(n=16, masked=True)
    with pytest.raises(ValueError, match="all are positive"):
        bi_tuning_queue(net, size=0)
    with pytest.raises(ValueError, match="momentum=1"):
        bi_tuning_queue(net, momentum=1.0)
    with pytest.raises(ValueError, match="already hold 'bi_tuning'"):
        objective.init(jax.random.key(0), rows, start)
    with pytest.raises(ValueError, match="head='top' has no kernel"):
        finetune(net, terms=[bi_tuning_queue(net, head="top")]).init(jax.random.key(0), rows)
    with pytest.raises(ValueError, match=r"feature='tokens' must be \[batch, width\]"):
        finetune(net, terms=[bi_tuning_queue(net, feature="tokens")]).init(jax.random.key(0), rows)


def test_the_encoder_of_a_frozen_backbone_sees_what_the_backbone_sees(key):
    rows = batch(n=8)
    net = network(backbone=normed(6), head=top(3))
    start = net.init(key, rows["x"])
    start = Variables(start.params, jax.tree.map(lambda a: a + 2.0, start.stats))  # unlike the batch's
    objective = finetune(net, terms=[bi_tuning_queue(net, size=8, width=4)])
    step = make_step(objective, optax.sgd(0.0), trainable=jtl.select("head/.*"))
    state, _ = jax.jit(step)(step.init(objective.init(key, rows, start), key), rows)
    features = net.apply(start, rows["x"], train=False)[0].features["pooled"]
    queue = np.asarray(state.stats["bi_tuning"]["features"])
    for c in range(3):
        mine = unit(np.c_[features, np.ones(8)])[rows["y"] == c]
        np.testing.assert_allclose(queue[c][: len(mine)], mine, atol=1e-6)


def test_labels_of_mixed_batches_are_refused(key):
    rows = batch(n=8)
    net, _, start = parts(key, rows["x"])
    objective = finetune(net, terms=[bi_tuning_queue(net)], metrics={})
    soft = {**rows, "y": np.eye(3, dtype=np.float32)[rows["y"]]}
    variables = objective.init(key, rows, start)
    with pytest.raises(ValueError, match=r"bi_tuning: the view 'source' has labels of float32 \(8, 3\): give integers"):
        objective(variables.params, variables.stats, soft, key, 0)


def test_the_state_keeps_its_types_under_x64(setup):
    _, objective, variables, _ = setup
    rows = batch(n=16, masked=True)
    with jax.enable_x64():
        _, aux = objective(variables.params, variables.stats, rows, jax.random.key(0), 0)
    assert jax.tree.map(lambda a: a.dtype, aux.stats) == jax.tree.map(lambda a: a.dtype, variables.stats)
