"""OFT on a small ViT: against Cayley's formula in NumPy, the merged network, and what a rotation keeps."""

import jax
import numpy as np
import pytest
from small_vit import adapter_of, base, randomised, run

from jtl import peft
from jtl.params import flatten

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


def test_what_would_be_wrong_raises():
    net, variables = base()
    with pytest.raises(ValueError, match=r"\(16, 16\); OFT takes \[in, out\] where block=5"):
        peft.attach(net, variables, peft.oft((".*/query",), 5), jax.random.key(0))
    with pytest.raises(ValueError, match="block=1"):
        peft.oft(WHERE, 1)
    with pytest.raises(ValueError, match="terms=3"):
        peft.oft(WHERE, 4, terms=3)
