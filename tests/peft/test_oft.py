"""OFT on a small ViT: against Cayley's formula in NumPy, the merged network, and what a rotation keeps."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_vit import IMAGES, adapter_of, base, randomised, run

from jtl import peft
from jtl.methods.finetune.finetune import finetune
from jtl.model import cast_floating
from jtl.params import flatten, select
from jtl.train import make_step

WHERE = (r"block\d/attention/query", "block2/mlp/down")
PATHS = ("block1/attention/query", "block2/mlp/down")


def cayley(entries, block):
    """One block's rotation, by a loop over its entries and an explicit inverse."""
    q = np.zeros((block, block))
    for value, i, j in zip(entries, *np.triu_indices(block, 1), strict=True):
        q[i, j], q[j, i] = value, -value
    return q, (np.eye(block) - q) @ np.linalg.inv(np.eye(block) + q)


@pytest.mark.parametrize("terms", [None, 4, 6])
def test_starts_as_the_base_and_merges_to_the_formula(terms):
    net, variables = base()
    adapter = peft.oft(WHERE, 4, terms=terms)
    adapted, more = peft.attach(net, variables, adapter, jax.random.key(1))
    np.testing.assert_allclose(run(adapted, more), run(net, variables), rtol=0, atol=1e-5)
    changed = randomised(more)
    merged = peft.merge(changed, adapter)
    found = run(adapted, changed)
    np.testing.assert_allclose(run(net, merged), found, rtol=0, atol=1e-4 * np.abs(found).max())
    assert np.abs(found - run(net, variables)).max() > 1e-2
    for path in PATHS:
        kernel = np.asarray(flatten(variables.params)[f"backbone/{path}/kernel"], np.float64)
        whole = np.zeros((kernel.shape[0],) * 2)
        for i, entries in enumerate(adapter_of(changed, path)["q"]):
            q, rotation = cayley(entries, 4)
            if terms is not None:
                power = [np.linalg.matrix_power(q, n) for n in range(terms)]
                rotation = power[0] + 2 * sum(power[1 : terms - 1]) + power[-1]
            whole[4 * i : 4 * i + 4, 4 * i : 4 * i + 4] = rotation
        expected = whole @ kernel
        after = np.asarray(flatten(merged.params)[f"backbone/{path}/kernel"], np.float64)
        np.testing.assert_allclose(after, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())
        if terms is None:  # inner products of columns stay, so norms and angles do
            np.testing.assert_allclose(after.T @ after, kernel.T @ kernel, rtol=0, atol=1e-4)


@pytest.mark.parametrize("terms", [None, 5])
def test_a_step_in_bfloat16_is_near_that_in_float32(terms):
    net, variables = base()
    adapter = peft.oft(("block2/mlp/down",), 4, terms=terms)
    net, variables = peft.attach(net, variables, adapter, jax.random.key(1))
    variables, rows = randomised(variables), {"x": IMAGES, "y": np.arange(4) % 3}

    def after(dtype):
        step = make_step(finetune(net), optax.sgd(1.0), trainable=select(".*/adapter/.*"), dtype=dtype)
        state = jax.jit(step)(step.init(variables, jax.random.key(0)), rows)[0]
        return np.asarray(flatten(state.params)["backbone/adapter/block2/mlp/down/q"])

    before = np.asarray(flatten(variables.params)["backbone/adapter/block2/mlp/down/q"])
    exact, rounded = after(None) - before, after(jnp.bfloat16) - before
    assert np.linalg.norm(rounded - exact) < 0.1 * np.linalg.norm(exact)


def test_unmerges_with_parameters_in_bfloat16():
    net, variables = base()
    adapter = peft.oft(("block2/mlp/down",), 4)
    more = randomised(peft.attach(net, variables, adapter, jax.random.key(1))[1])
    low = more._replace(params=cast_floating(more.params, jnp.bfloat16))
    back = peft.unmerge(peft.merge(low, adapter), adapter, low.params["backbone"]["adapter"])
    path = "backbone/block2/mlp/down/kernel"
    found, wanted = (np.asarray(flatten(v.params)[path], np.float32) for v in (back, variables))
    np.testing.assert_allclose(found, wanted, rtol=0, atol=0.03 * np.abs(wanted).max())


def test_what_would_be_wrong_raises():
    net, variables = base()
    with pytest.raises(ValueError, match=r"\(16, 16\); OFT takes \[in, out\] where block=5"):
        peft.attach(net, variables, peft.oft((".*/query",), 5), jax.random.key(0))
    with pytest.raises(ValueError, match="block=1"):
        peft.oft(WHERE, 1)
    with pytest.raises(ValueError, match="terms=3"):
        peft.oft(WHERE, 4, terms=3)
