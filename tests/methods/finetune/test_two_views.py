"""Terms of all rows of all views: two views of 5 and 7 rows are one of 12."""

import jax
import numpy as np
import pytest
from nets import batch, dense, top

from jtl import finetuning
from jtl.methods.views import View
from jtl.metrics.accumulate import total
from jtl.model import Variables
from jtl.networks import network

KEY = jax.random.key(0)
NET = network(backbone=dense(4), head=top(3))
ROWS = batch(n=12, masked=True)
START, TEACHER = (NET.init(jax.random.key(i), ROWS["x"]) for i in (1, 2))
TERMS = {
    "bss": finetuning.bss(1.0, k=2),
    "delta": finetuning.delta(NET, TEACHER, {"pooled": None}),
    "distillation": finetuning.distillation(NET, TEACHER),
    "feature_distillation": finetuning.feature_distillation(NET, TEACHER),
}


@pytest.fixture(scope="module")
def found():
    def views(*parts):
        out = NET.apply(START, ROWS["x"], train=False)[0]
        return {
            str(part): View(
                {"pooled": out.features["pooled"][part]},
                out.output[part],
                ROWS["x"][part],
                None,
                ROWS["mask"][part],
                {},
            )
            for part in parts
        }

    def values(name):
        cut = (slice(0, 12),), (slice(0, 5), slice(5, 12)), (slice(0, 5),)
        stats = TERMS[name].init(KEY, {}, Variables({}, {})).stats
        return [total(TERMS[name]({}, stats, views(*parts), None, 0)[0]) for parts in cut]

    return jax.jit(lambda: {name: values(name) for name in TERMS})()


@pytest.mark.parametrize("name", TERMS)
def test_the_rows_of_two_views_count_as_those_of_one(found, name):
    whole, two, first = found[name]
    np.testing.assert_allclose(two, whole, rtol=1e-5)
    assert abs(float(first) / float(whole) - 1) > 0.01


@pytest.mark.parametrize(
    "make",
    [
        lambda weight: finetuning.bss(weight),
        lambda weight: finetuning.delta(NET, TEACHER, {"pooled": None}, weight),
        lambda weight: finetuning.distillation(NET, TEACHER, weight),
        lambda weight: finetuning.feature_distillation(NET, TEACHER, weight),
        lambda weight: finetuning.co_tuning(np.eye(3), weight),
        lambda weight: finetuning.bi_tuning(weight),
        lambda weight: finetuning.bi_tuning_queue(NET, weight),
    ],
    ids=[*TERMS, "co_tuning", "bi_tuning", "bi_tuning_queue"],
)
def test_a_weight_that_turns_a_term_around_is_refused(make):
    with pytest.raises(ValueError, match=r"weight=-1\.0"):
        make(-1.0)
