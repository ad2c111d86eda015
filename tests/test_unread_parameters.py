"""A parameter that no module reads would be trained for nothing."""

import jax
import jax.numpy as jnp
import pytest
from nets import batch, dense, top

import jtl

NET = jtl.network(backbone=dense(8), head=top(3))


def test_a_parameter_below_a_part_that_no_module_has_is_named():
    objective, rows = jtl.finetune(NET), batch()
    given = objective.init(jax.random.key(0), rows)
    head = {"out": {**given.params["head"]["out"], "kernels": jnp.zeros((8, 3))}}
    with pytest.raises(ValueError, match=r"no module has the given parameter 'head/out/kernels'.*'head/out/kernel'"):
        objective.init(jax.random.key(0), rows, given._replace(params={**given.params, "head": head}))


def test_adapters_and_parts_of_other_objectives_stay():
    objective, rows = jtl.finetune(NET), batch()
    given = objective.init(jax.random.key(0), rows)
    backbone = {**given.params["backbone"], "adapter": {"layer0": {"a": jnp.zeros(3)}}}
    more = given._replace(params={**given.params, "backbone": backbone, "critic": {"w": jnp.zeros(2)}})
    kept = objective.init(jax.random.key(0), rows, more)
    assert "critic" in kept.params
    assert "adapter" in kept.params["backbone"]
