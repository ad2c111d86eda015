"""Options of a step and of a run that would train nothing, or fail far from where they are given."""

from inspect import unwrap

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from nets import dense, top

import jtl
from jtl import select
from jtl.train import Phase, Turn, fit, make_step

NET = jtl.network(backbone=dense(4), head=top(3))
OBJECTIVE = jtl.finetune(NET)
BATCH = {"x": np.ones((8, 5), np.float32), "y": np.zeros(8, int)}


def nothing(params):
    return jax.tree.map(lambda _: False, params)


def start():
    return OBJECTIVE.init(jax.random.key(0), BATCH)


@pytest.mark.parametrize(
    ("dtype", "message"),
    [
        (jnp.int32, "dtype=int32: parameters cast to it have no gradient"),
        (bool, "dtype=bool: parameters cast to it"),
        (jnp.complex64, "dtype=complex64: parameters cast to it"),
        ("bf16", "dtype='bf16' is the name of no type: give jnp.bfloat16"),
        (jnp.float64, "dtype=float64: jax would compute in float32, because jax_enable_x64 is off"),
    ],
)
def test_a_dtype_in_which_nothing_is_trained_is_refused(dtype, message):
    with pytest.raises(ValueError, match=message):
        make_step(OBJECTIVE, optax.sgd(0.1), dtype=dtype)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, "float16", jnp.float32, float, jnp.dtype("bfloat16")])
def test_floating_types_are_taken(dtype):
    make_step(OBJECTIVE, optax.sgd(0.1), dtype=dtype)


def test_float64_is_taken_where_jax_has_it():
    with jax.enable_x64(True):
        make_step(OBJECTIVE, optax.sgd(0.1), dtype=jnp.float64)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"trainable": "head/.*"}, r"trainable='head/\.\*' has patterns .* give jtl.select\('head/\.\*'\)"),
        ({"trainable": ["head/.*", "b/.*"]}, r"give jtl.select\('head/\.\*', 'b/\.\*'\)"),
        ({"trainable": 3}, "trainable=3 is no mask"),
        ({"microbatch": 2.0}, "microbatch=2.0 is of type float: give a whole number"),
        ({"microbatch": "2"}, "microbatch='2' is of type str"),
        ({"clip": "1"}, "clip='1' is of type str: give a number"),
        ({"clip": jnp.ones(2)}, "clip=.* give a number"),
        ({"ema": "0.9"}, "ema='0.9' is of type str: give a number"),
        ({"ema": True}, "ema=True is of type bool"),
    ],
)
def test_other_types_are_told_where_they_are_given(options, message):
    with pytest.raises(TypeError, match=message):
        unwrap(make_step)(OBJECTIVE, optax.sgd(0.1), **options)


@pytest.mark.parametrize("steps", [4.0, "4", True])
def test_steps_are_whole_numbers(steps):
    step = make_step(OBJECTIVE, optax.sgd(0.1))
    data = jtl.data.arrays(BATCH["x"], BATCH["y"], batch_size=8)
    with pytest.raises(TypeError, match=f"steps={steps!r} is of type {type(steps).__name__}: give a whole number"):
        unwrap(fit)(step, step.init(start(), jax.random.key(1)), data, steps=steps, progress=False)


def test_numbers_of_numpy_and_jax_are_taken():
    unwrap(make_step)(OBJECTIVE, optax.sgd(0.1), microbatch=np.int64(2), clip=jnp.float32(1), ema=np.float32(0.9))


def test_a_selection_of_no_parameter_is_refused():
    step = make_step(OBJECTIVE, optax.sgd(0.1), trainable=nothing)
    with pytest.raises(ValueError, match="trainable selects none of 4 parameters, so nothing would be trained"):
        step.init(start(), jax.random.key(1))
    both = make_step([OBJECTIVE] * 2, [optax.sgd(0.1)] * 2, trainable=[nothing, nothing])
    with pytest.raises(ValueError, match="trainable selects none"):
        both.init(start(), jax.random.key(1))


def test_one_group_may_be_empty():
    groups = [nothing, select("head/.*")]
    for objective in ([Turn(OBJECTIVE, by=(0, 1))], [Phase(0, Turn(OBJECTIVE, by=(0, 1)))]):
        step = make_step(objective, [optax.sgd(0.1)] * 2, trainable=groups)
        before = step.init(start(), jax.random.key(1))
        after, _ = jax.jit(step)(before, BATCH)
        assert not np.array_equal(after.params["head"]["out"]["bias"], before.params["head"]["out"]["bias"])


def test_variables_without_parameters_are_told():
    """An alignment has none of its own where it needs those of the network."""
    alignment = jtl.alignments.mcc()
    variables = alignment.init(jax.random.key(0), {"source": BATCH, "target": BATCH})
    step = make_step(alignment, optax.sgd(0.1))
    with pytest.raises(ValueError, match=r"variables are empty.*of an alignment alone, those of its network"):
        step.init(variables, jax.random.key(1))
