"""Every alignment over adapters alone with frozen statistics, with few labels of the target, and with two sources."""

import functools

import jax
import numpy as np
import optax
import pytest
from nets import batch, normed, top

from jtl import alignments, dann, peft
from jtl.networks import network
from jtl.params import flatten, unflatten
from jtl.train.step import make_step

KEY = jax.random.key(0)
NET = network(backbone=normed(8), head=top(3))


def trained(params):
    """Adapters, and whatever an alignment has of its own."""
    base = ("backbone/layer/", "backbone/norm/", "head/")
    return unflatten({path: not path.startswith(base) for path in flatten(params)})


def data():
    draws = {"source": 0, "target": 1, "second": 3, "few": 4}
    rows = {name: batch(n=16, seed=seed) for name, seed in draws.items()}
    del rows["target"]["y"]
    rows["target"]["x"] = 0.7 * rows["target"]["x"] + 0.5
    rows["target"]["mask"] = np.arange(16) % 4 != 1
    strong = {"x": rows["target"]["x"] + 0.3 * batch(n=16, seed=2)["x"], "mask": rows["target"]["mask"]}
    return {**rows, "strong": strong}


ROWS = data()
ADAPTED, VARIABLES = peft.attach(NET, NET.init(KEY, ROWS["source"]["x"]), peft.lora(2, ("layer",)), KEY)
CASES = {
    "afn": alignments.afn,
    "bnm": alignments.bnm,
    "bsp": lambda: alignments.bsp(0.1),
    "cdan": lambda: alignments.cdan(top(1), entropy=True),
    "coral": lambda: alignments.coral(10.0),
    "dann": lambda: dann(top(1)),
    "daregram": lambda: alignments.daregram(angle=1.0, scale=0.1),
    "deep_jdot": lambda: alignments.deep_jdot(feature_cost=0.5, label_cost=0.5),
    "domain_mixup": lambda: alignments.domain_mixup(ADAPTED, alpha=0.5),
    "entropy": alignments.entropy,
    "fishr": lambda: alignments.fishr(ADAPTED, ("source", "second")),
    "fixmatch": lambda: alignments.fixmatch(threshold=0.4),
    "information": alignments.information_maximisation,
    "irm": lambda: alignments.irm(("source", "second"), 10.0),
    "iwan": lambda: alignments.iwan(top(1), top(1)),
    "jmmd": alignments.jmmd,
    "lmmd": alignments.lmmd,
    "mcc": alignments.mcc,
    "mdd": lambda: alignments.mdd(top(3)),
    "mmd": alignments.mmd,
    "pseudo": lambda: alignments.pseudo_labels(threshold=0.4),
    "rsd": lambda: alignments.rsd(0.1, mismatch=1.0),
    "sliced": lambda: alignments.sliced_wasserstein(projections=8),
    "teacher": lambda: alignments.mean_teacher(ADAPTED, 10.0, momentum=0.5),
    "vat": lambda: alignments.vat(ADAPTED, 10.0, radius=1.0),
    "vrex": lambda: alignments.vrex(("source", "second"), 10.0),
    "wdgrl": lambda: alignments.wdgrl(top(1)),
}
every = pytest.mark.parametrize("name", CASES)
LABELLED = ("source", "second", "few")


@functools.cache
def after(name):
    """Parameters and statistics before, the state after two steps, the terms of the first; None for no alignment."""
    terms, rows, labelled = [] if name is None else [CASES[name]()], ROWS, LABELLED
    objective = alignments.adapt(ADAPTED, alignments=terms, labelled=labelled, metrics={})
    step = make_step(objective, optax.sgd(0.1), trainable=trained)
    variables = objective.init(KEY, rows, VARIABLES)
    state, run = step.init(variables, KEY), jax.jit(step)
    state, metrics = run(state, rows)
    return flatten(variables.params), flatten(variables.stats), run(state, rows)[0], metrics


@every
def test_adapters_alone_learn_from_every_alignment_and_from_all_labels(name):
    """Two sources, few labels of the target and unlabelled rows; a frozen BatchNorm keeps its statistics."""
    before, stats, state, metrics = after(name)
    params = flatten(state.params)
    assert before.keys() == params.keys()
    moved = {path for path in before if not np.array_equal(before[path], params[path])}
    assert {path for path in moved if path.startswith(("backbone/", "head/"))} == {
        f"backbone/adapter/layer/{part}" for part in "ab"
    }
    norm = {path: value for path, value in flatten(state.stats).items() if path.startswith("backbone/norm/")}
    assert norm
    assert all(np.array_equal(value, stats[path]) for path, value in norm.items())
    reference = flatten(after(None)[2].params)
    gap = max(np.abs(params[path] - reference[path]).max() for path in moved if path in reference)
    assert gap > 1e-7
    assert all(np.isfinite(value).all() for value in params.values())
    assert {"source", "second", "few"} <= metrics.keys()


@every
def test_the_term_is_that_of_its_own_views(name):
    """Frozen statistics let rows stand apart: more labelled views add their terms, and change no other."""
    own = ("source", "second") if name in ("fishr", "irm", "vrex") else ("source",)
    rows = {view: ROWS[view] for view in (*own, "target", "strong")}
    objective = alignments.adapt(ADAPTED, alignments=[CASES[name]()], labelled=own, metrics={})
    step = make_step(objective, optax.sgd(0.1), trainable=trained)
    fewer = jax.jit(step)(step.init(objective.init(KEY, rows, VARIABLES), KEY), rows)[1]
    terms = after(name)[3]
    assert fewer.keys() > {"loss", *own}
    assert terms.keys() > fewer.keys() >= terms.keys() - {"second", "few"}
    for term in fewer.keys() - {"loss"}:
        np.testing.assert_allclose(fewer[term], terms[term], rtol=2e-5, atol=2e-6, err_msg=term)
