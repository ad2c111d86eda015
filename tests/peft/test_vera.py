"""VeRA on a small ViT: against the paper's formula in NumPy, and the merged network."""

import jax
import numpy as np
import pytest
from small_vit import adapter_of, base, randomised, run

from jtl import peft
from jtl.params import flatten

WHERE = (r"block\d/attention/query", "block2/mlp/(up|down)")
SHARED = peft.projections(jax.random.key(5), 6, 32, 32)
ADAPTER = peft.vera(WHERE, SHARED)


def test_starts_as_the_base_and_merges_to_the_formula():
    """W + diag-scaled slices of the shared A and B, in float64, at modules of three shapes; the output is the same."""
    net, variables = base()
    adapted, more = peft.attach(net, variables, ADAPTER, jax.random.key(1))
    np.testing.assert_allclose(run(adapted, more), run(net, variables), rtol=0, atol=1e-5)
    changed = randomised(more)
    merged = peft.merge(changed, ADAPTER)
    found = run(adapted, changed)
    np.testing.assert_allclose(run(net, merged), found, rtol=0, atol=1e-4)
    assert np.abs(found - run(net, variables)).max() > 1e-2
    a, b = (np.asarray(part, np.float64) for part in SHARED)
    for path in ("block1/attention/query", "block2/mlp/up", "block2/mlp/down"):
        kernel = np.asarray(flatten(variables.params)[f"backbone/{path}/kernel"], np.float64)
        part = adapter_of(changed, path)
        assert part["d"].shape == (6,)
        update = a[: kernel.shape[0]] @ np.diag(part["d"]) @ b[:, : kernel.shape[1]] @ np.diag(part["l"])
        np.testing.assert_allclose(
            flatten(merged.params)[f"backbone/{path}/kernel"], kernel + update, rtol=1e-5, atol=1e-5
        )


def test_the_shared_matrices_are_no_parameters():
    net, variables = base()
    _, more = peft.attach(net, variables, ADAPTER, jax.random.key(1))
    new = flatten(more.params).keys() - flatten(variables.params).keys()
    assert {path.rpartition("/")[2] for path in new} == {"d", "l"}
    assert len(new) == 2 * 4
    again = peft.projections(jax.random.key(5), 6, 32, 32)
    np.testing.assert_array_equal(again.a, SHARED.a)
    for part, fan_in in zip(SHARED, (32, 6), strict=True):  # a uniform's deviation is its limit / √3
        np.testing.assert_allclose(np.std(part), (2 / fan_in) ** 0.5, rtol=0.15)


def test_what_would_be_wrong_raises():
    net, variables = base()
    few = peft.projections(jax.random.key(0), 2, 16, 16)
    with pytest.raises(ValueError, match=r"\(16, 32\); VeRA takes \[in, out\] of at most \(16, 16\)"):
        peft.attach(net, variables, peft.vera((".*/up",), few), jax.random.key(0))
    with pytest.raises(ValueError, match="initial=0"):
        peft.vera(WHERE, SHARED, initial=0)
    with pytest.raises(ValueError, match="as many as"):
        peft.vera(WHERE, peft.Projections(np.ones((4, 3)), np.ones((2, 4))))
    with pytest.raises(ValueError, match="rank=0"):
        peft.projections(jax.random.key(0), 0, 1, 1)
