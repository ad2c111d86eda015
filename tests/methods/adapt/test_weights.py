"""Weights of 0 and 1 are a mask in every objective with labels; a λ that turns a term around is refused."""

import jax
import numpy as np
import pytest
from nets import batch, dense, top

import jtl
from jtl import alignments
from jtl.metrics.accumulate import as_terms
from jtl.networks import network

KEY = jax.random.key(0)
NET = network(backbone=dense(8), head=top(3))
NAMES = ("source", "source_strong")
ROWS = {name: batch(seed=i) for i, name in enumerate(("source", "source_strong", "target", "strong"))}
ROWS["source_strong"]["y"] = ROWS["source"]["y"]
KEPT = np.random.default_rng(0).random(24) < 0.5
CASES = {
    "alternating": (lambda: jtl.alternating(NET, top(1))[1], {"source"}),
    "mcd": (lambda: alignments.mcd(NET, top(3))[0], {"first", "second"}),
    "adamatch": (lambda: alignments.adamatch(NET), {"source", "source_strong"}),
    "domain_mixup": (lambda: alignments.adapt(NET, alignments=[alignments.domain_mixup(NET, alpha=1.0)]), None),
    "group_dro": (lambda: alignments.group_dro(NET, NAMES, rate=1.0), None),
    "eqrm": (lambda: alignments.eqrm(NET, NAMES), None),
    "mldg": (lambda: alignments.mldg(NET, NAMES, inner_lr=0.5), None),
    "fishr": (lambda: alignments.adapt(NET, alignments=[alignments.fishr(NET, NAMES)], labelled=NAMES), None),
    "vrex": (lambda: alignments.adapt(NET, alignments=[alignments.vrex(NAMES)], labelled=NAMES), None),
    "irm": (lambda: alignments.adapt(NET, alignments=[alignments.irm(NAMES)], labelled=NAMES), None),
}


@pytest.mark.parametrize("name", CASES)
def test_weights_of_zero_and_one_are_a_mask(name):
    make, terms = CASES[name]
    objective = make()
    variables = objective.init(KEY, ROWS)
    found = []
    for field in ("weights", "mask"):
        rows = {n: part | ({field: KEPT} if n in NAMES else {}) for n, part in ROWS.items()}
        loss, aux = objective(variables.params, variables.stats, rows, KEY, 0)
        values = {n: float(m.value) for n, m in as_terms(loss).items() if terms is None or n in terms}
        told = {n: float(jax.numpy.asarray(m.value)) for n, m in aux.metrics.items() if n.endswith("accuracy")}
        told = {n: value for n, value in told.items() if not n.startswith("critic")}
        found.append(values | told)
    plain = objective(variables.params, variables.stats, ROWS, KEY, 0)[0]
    plain = {n: float(m.value) for n, m in as_terms(plain).items() if n in found[0]}
    assert found[0] == pytest.approx(found[1], rel=1e-5, abs=1e-6)
    assert any(abs(found[0][n] - value) > 1e-4 for n, value in plain.items())


@pytest.mark.parametrize(
    "make",
    [
        lambda w: jtl.dann(weight=w),
        lambda w: jtl.alternating(NET, top(1), weight=w),
        lambda w: alignments.cdan(weight=w),
        lambda w: alignments.mdd(weight=w),
        lambda w: alignments.wdgrl(weight=w),
        lambda w: alignments.osbp(NET, w),
        lambda w: alignments.iwan(weight=w),
        lambda w: alignments.pada(NET, weight=w),
        lambda w: alignments.vrex(NAMES, w),
        lambda w: alignments.irm(NAMES, w),
        lambda w: alignments.fishr(NET, NAMES, w),
    ],
    ids=["dann", "alternating", "cdan", "mdd", "wdgrl", "osbp", "iwan", "pada", "vrex", "irm", "fishr"],
)
def test_a_weight_that_turns_a_term_around_is_refused(make):
    for weight in (-1.0, float("nan")):
        with pytest.raises(ValueError, match=f"weight={weight}"):
            make(weight)
