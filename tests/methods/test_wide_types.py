"""Under x64 a float32 run has float32 terms: a count of float64 made the whole loss one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from nets import dense, top

import jtl
from jtl.metrics.accumulate import as_terms, total

NET = jtl.network(backbone=dense(4), head=top(3))
BATCH = {"x": np.ones((4, 5), np.float32), "y": np.arange(4, dtype=np.int32)}


def fisher(variables):
    ones = jax.tree.map(jnp.ones_like, variables.params)
    return ones, jax.tree.map(jnp.zeros_like, ones)


OBJECTIVES = {
    "shot": lambda _: jtl.source_free.shot(NET, rows=4),
    "nrc": lambda _: jtl.source_free.nrc(NET, rows=4),
    "eata": lambda start: jtl.test_time.eata(NET, near=0.4, fisher=fisher(start)),
    "memo": lambda _: jtl.test_time.memo(NET, lambda key, x: x),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_terms_of_float32_parameters_are_float32(name):
    key = jax.random.key(0)
    start = NET.init(key, BATCH["x"])
    with jax.enable_x64(True):
        objective = OBJECTIVES[name](start)
        variables = objective.init(key, BATCH, start)
        loss, _ = objective(variables.params, variables.stats, BATCH, key, jnp.int32(0))
        terms = as_terms(loss)
        assert {n: (t.total.dtype.name, t.count.dtype.name) for n, t in terms.items()} == dict.fromkeys(
            terms, ("float32", "float32")
        )
        assert total(terms).dtype == jnp.float32
