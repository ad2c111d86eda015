"""Weights of 0 and 1, and a label to ignore, are a mask of labels; a λ that turns a term around is refused."""

import jax
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
KEPT = ROWS["source"]["y"] != 1


def adapted(term):
    """`adapt` with a term that reads labels."""
    return lambda **ignore: alignments.adapt(NET, alignments=[term], labelled=NAMES, **ignore)


CASES = {
    "alternating": (lambda **ignore: jtl.alternating(NET, top(1), **ignore)[1], {"source"}),
    "mcd": (lambda **ignore: alignments.mcd(NET, top(3), **ignore)[0], {"first", "second"}),
    "adamatch": (lambda **ignore: alignments.adamatch(NET, **ignore), {"source", "source_strong"}),
    "group_dro": (lambda **ignore: alignments.group_dro(NET, NAMES, rate=1.0, **ignore), None),
    "eqrm": (lambda **ignore: alignments.eqrm(NET, NAMES, **ignore), None),
    "and_mask": (lambda **ignore: alignments.and_mask(NET, NAMES, agreement=0.0, **ignore), None),
    "mldg": (lambda **ignore: alignments.mldg(NET, NAMES, inner_lr=0.5, **ignore), None),
    "sagnet": (lambda **ignore: alignments.sagnet(NET, top(3), NAMES, **ignore), None),
    "rsc": (lambda **ignore: alignments.rsc(NET, NAMES, **ignore), None),
    "domain_mixup": (adapted(alignments.domain_mixup(NET, alpha=1.0)), None),
    "fishr": (adapted(alignments.fishr(NET, NAMES)), None),
    "vrex": (adapted(alignments.vrex(NAMES)), None),
    "irm": (adapted(alignments.irm(NAMES)), None),
    "cdann": (adapted(alignments.cdann(NAMES, top(2))), None),
    "lmmd": (adapted(alignments.lmmd()), None),
    "deep_jdot": (adapted(alignments.deep_jdot(feature_cost=0.5, label_cost=0.5)), None),
}


@pytest.mark.parametrize("name", CASES)
def test_weights_of_zero_and_one_and_a_label_to_ignore_are_a_mask(name):
    make, terms = CASES[name]
    objective = make()
    variables = objective.init(KEY, ROWS)
    found = []
    for field in ("weights", "mask", None):
        rows = {n: part | ({field: KEPT} if field and n in NAMES else {}) for n, part in ROWS.items()}
        loss, aux = (objective if field else make(ignore=1))(variables.params, variables.stats, rows, KEY, 0)
        values = {n: float(m.value) for n, m in as_terms(loss).items() if terms is None or n in terms}
        told = {n: float(jax.numpy.asarray(m.value)) for n, m in aux.metrics.items() if n.endswith("accuracy")}
        told = {n: value for n, value in told.items() if not n.startswith("critic")}
        found.append(values | told)
    plain = objective(variables.params, variables.stats, ROWS, KEY, 0)[0]
    plain = {n: float(m.value) for n, m in as_terms(plain).items() if n in found[0]}
    assert found[0] == pytest.approx(found[1], rel=1e-5, abs=1e-6)
    assert found[2] == pytest.approx(found[1], rel=1e-5, abs=1e-6)
    assert any(abs(found[0][n] - value) > 1e-4 for n, value in plain.items())


def test_a_row_whose_label_pada_ignores_has_the_weight_of_a_class_that_the_target_lacks():
    objective, masked = (alignments.pada(NET, top(1), **ignore) for ignore in ({"ignore": 1}, {}))
    variables = objective.init(KEY, ROWS)
    found = []
    for one, rows in ((objective, ROWS), (masked, {**ROWS, "source": {**ROWS["source"], "mask": KEPT}})):
        loss, _ = one(variables.params, variables.stats, rows, KEY, 0)
        found.append({n: float(m.value) for n, m in as_terms(loss).items()})
    found[1]["critic_source"] *= KEPT.mean()  # such a row still is one of those that the critic sees
    assert found[0] == pytest.approx(found[1], rel=1e-5)


@pytest.mark.parametrize(
    "make",
    [
        lambda w: jtl.dann(weight=w),
        lambda w: jtl.alternating(NET, top(1), weight=w),
        lambda w: alignments.cdan(weight=w),
        lambda w: alignments.mdd(weight=w),
        lambda w: alignments.wdgrl(weight=w),
        lambda w: alignments.osbp(NET, w),
        lambda w: alignments.mme(NET, w),
        lambda w: alignments.nwd(NET, w),
        lambda w: alignments.iwan(weight=w),
        lambda w: alignments.pada(NET, weight=w),
        lambda w: alignments.vrex(NAMES, w),
        lambda w: alignments.irm(NAMES, w),
        lambda w: alignments.fishr(NET, NAMES, w),
        lambda w: alignments.cdann(NAMES, weight=w),
    ],
    ids=[
        "dann",
        "alternating",
        "cdan",
        "mdd",
        "wdgrl",
        "osbp",
        "mme",
        "nwd",
        "iwan",
        "pada",
        "vrex",
        "irm",
        "fishr",
        "cdann",
    ],
)
def test_a_weight_that_turns_a_term_around_is_refused(make):
    for weight in (-1.0, float("nan")):
        with pytest.raises(ValueError, match=f"weight={weight}"):
            make(weight)
