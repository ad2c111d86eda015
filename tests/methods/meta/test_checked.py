"""Numbers that no rule and no way to adapt can be made with are named where they enter."""

from functools import partial
from inspect import unwrap

import numpy as np
import pytest
from few_shot import quadratic
from nets import dense

from jtl import heads
from jtl.methods.meta import checked
from jtl.methods.meta.cavia import with_context
from jtl.methods.meta.implicit import implicit
from jtl.methods.meta.inner_loop import adapt_to
from jtl.methods.meta.learned_optimizer import learned_optimizer
from jtl.methods.meta.mahalanobis import mahalanobis
from jtl.methods.meta.memory import matching, memorise
from jtl.methods.meta.meta_curvature import meta_curvature
from jtl.methods.meta.multi_step import annealed_weights
from jtl.methods.meta.per_step_rates import per_step_rates
from jtl.methods.meta.ridge import ridge
from jtl.methods.meta.svm import svm
from jtl.methods.meta.update_rules import fixed_rate, learned_rate
from jtl.networks import network

NET = network(backbone=dense(4), head=heads.linear(3))
RULE = fixed_rate(0.1)
IMPLICIT = {"steps": 2, "strength": 1.0, "solves": 2}
RATES = {
    "fixed_rate": (fixed_rate, 0.0),
    "learned_rate": (learned_rate, 0.0),
    "per_step_rates": (partial(per_step_rates, steps=2), 0.0),
    "meta_curvature": (meta_curvature, None),
    "learned_optimizer": (learned_optimizer, None),
}
WHOLE = {  # unwrapped: in tests alone the types of arguments are checked too
    "adapt_to": ("steps", lambda n: unwrap(adapt_to)(quadratic, RULE, steps=n), 0),
    "implicit, steps": ("steps", lambda n: unwrap(implicit)(quadratic, RULE, **{**IMPLICIT, "steps": n}), 1),
    "implicit, solves": ("solves", lambda n: unwrap(implicit)(quadratic, RULE, **{**IMPLICIT, "solves": n}), 1),
    "per_step_rates": ("steps", lambda n: unwrap(per_step_rates)(0.1, steps=n), 1),
    "learned_optimizer": ("width", lambda n: unwrap(learned_optimizer)(0.1, width=n), 1),
    "with_context": ("size", lambda n: unwrap(with_context)(dense(4), n), 1),
    "svm": ("steps", lambda n: unwrap(svm)(NET, steps=n), 1),
    "memorise": ("way", lambda n: unwrap(memorise)(NET, way=n), 1),
    "annealed_weights": ("over", lambda n: unwrap(annealed_weights)(2, over=n), 1),
}
POSITIVE = {
    "implicit": ("strength", lambda a: implicit(quadratic, RULE, **{**IMPLICIT, "strength": a})),
    "ridge": ("strength", lambda a: ridge(NET, strength=a)),
    "ridge, scale": ("scale", lambda a: ridge(NET, scale=a)),
    "svm": ("cost", lambda a: svm(NET, cost=a)),
    "svm, scale": ("scale", lambda a: svm(NET, scale=a)),
    "mahalanobis": ("strength", lambda a: mahalanobis(strength=a)),
    "matching": ("temperature", matching),
}


@pytest.mark.parametrize("name", RATES)
def test_rates(name):
    make, still = RATES[name]
    for bad in (-0.1, float("nan"), float("inf"), *([] if still == 0 else [0.0])):
        with pytest.raises(ValueError, match=f"inner_lr={bad}: .* finite"):
            make(bad)
    for good in (0.4, 1.0, *([] if still is None else [still])):
        make(good)


@pytest.mark.parametrize("name", WHOLE)
def test_whole_numbers(name):
    number, make, least = WHOLE[name]
    for bad in (2.5, 2.0, True, float("nan"), least - 1):
        with pytest.raises(ValueError, match=f"{number}={bad}: must be an integer of at least {least}"):
            make(bad)
    make(least)


@pytest.mark.parametrize("name", POSITIVE)
def test_positive_numbers(name):
    number, make = POSITIVE[name]
    for bad in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=f"{number}={bad}: must be positive and finite"):
            make(bad)
    make(0.5)


def test_numbers_of_numpy_are_numbers_and_arrays_are_not_looked_at():
    checked.whole(1, steps=np.int64(3))
    checked.rate(np.float32(0.4))
    checked.rate(np.array(-1.0))
    with pytest.raises(ValueError, match="inner_lr=-1"):
        checked.rate(np.float32(-1))
