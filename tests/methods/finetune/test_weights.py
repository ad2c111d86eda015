"""Weights of all terms of `finetune`: a number or a function of the step, under one check."""

from inspect import signature

import jax
import jax.numpy as jnp
import pytest
from nets import batch, dense, top

from jtl import finetuning
from jtl.losses import cross_entropy
from jtl.metrics.accumulate import as_terms
from jtl.networks import network

KEY = jax.random.key(0)
ROWS = batch()
NET = network(backbone=dense(8), head=top(3), old=top(3))
START = NET.init(KEY, ROWS["x"])
FISHER = finetuning.fisher_diagonal(network(backbone=dense(8), head=top(3)), START, [ROWS])
TERMS = {
    "bi_tuning": lambda w: finetuning.bi_tuning(w, width=4),
    "bi_tuning_queue": lambda w: finetuning.bi_tuning_queue(NET, w, width=4, size=5, name="bi_tuning_queue"),
    "bss": finetuning.bss,
    "co_tuning": lambda w: finetuning.co_tuning(jnp.eye(3), w, head="old"),
    "delta": lambda w: finetuning.delta(NET, START, {"pooled": None}, w),
    "distillation": lambda w: finetuning.distillation(NET, START, w, head="old"),
    "ewc": lambda w: finetuning.ewc(FISHER, w),
    "feature_distillation": lambda w: finetuning.feature_distillation(NET, START, w),
    "l2_sp": finetuning.l2_sp,
    "l2_sp, head": lambda w: finetuning.l2_sp(0.0, head=w),
    "spectral_decoupling": lambda w: finetuning.spectral_decoupling(w, head="old"),
}


def test_every_term_is_here():
    with_weight = {n for n, f in vars(finetuning).items() if callable(f) and "weight" in signature(f).parameters}
    whole = {"r_drop"}  # no term: an objective with a term of its own
    assert with_weight - whole == {name.partition(", ")[0] for name in TERMS}


@pytest.mark.parametrize("name", TERMS)
def test_a_function_of_the_step_gives_the_weight_of_that_step(name):
    def values(weight):
        term = TERMS[name](weight)
        objective = finetuning.finetune(NET, lambda z, y: cross_entropy(z["head"], y), [term], metrics={})
        variables = objective.init(KEY, ROWS, START)
        moved = jax.tree.map(lambda w: 1.5 * w + 0.01, variables.params)  # at the start some terms are 0
        _, aux = objective(moved, variables.stats, ROWS, KEY, jnp.int32(2))  # fills the queues
        found, _ = objective(moved, aux.stats, ROWS, KEY, jnp.int32(3))
        return {term: float(m.value) for term, m in as_terms(found).items() if term != "supervised"}

    found = values(lambda step: step / 8)
    assert min(found.values()) > 0
    assert found == pytest.approx(values(3 / 8), rel=1e-6)
    assert values(0.0) == dict.fromkeys(found, 0.0)


@pytest.mark.parametrize("name", TERMS)
@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf")])
def test_a_weight_that_no_term_can_have_is_refused(name, weight):
    term, _, option = name.partition(", ")
    with pytest.raises(ValueError, match=rf"^{term}: {option or 'weight'}={weight}; give a finite number that is not"):
        TERMS[name](weight)
