"""HRA on a small ViT: against the product of its reflections in NumPy, and what an orthogonal matrix keeps."""

from inspect import unwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_vit import adapter_of, base, randomised, runs

from jtl import peft
from jtl.params import flatten


def reflected(h, kernel):
    """One reflection after the other, in float64."""
    kernel = np.asarray(kernel, np.float64)
    for one in np.asarray(h, np.float64).T:
        kernel = kernel - 2 * np.outer(one, one @ kernel) / (one @ one)
    return kernel


def test_starts_as_the_base_and_merges_to_the_product_of_reflections():
    net, variables = base()
    adapter = peft.hra(4, (r"block\d/attention/query", "block2/mlp/down"))
    adapted, more = peft.attach(net, variables, adapter, jax.random.key(1))
    here, there, changed = runs(adapted), runs(net), randomised(more)
    start, found, merged = there(variables), here(changed), peft.merge(changed, adapter)
    np.testing.assert_allclose(here(more), start, rtol=0, atol=1e-5)
    np.testing.assert_allclose(there(merged), found, rtol=0, atol=1e-4)
    assert np.abs(found - start).max() > 1e-2
    for path in ("block1/attention/query", "block2/mlp/down"):
        kernel, after = (np.asarray(flatten(v.params)[f"backbone/{path}/kernel"]) for v in (variables, merged))
        np.testing.assert_allclose(after, reflected(adapter_of(changed, path)["h"], kernel), rtol=0, atol=1e-5)
        np.testing.assert_allclose(after.T @ after, kernel.T @ kernel, rtol=0, atol=1e-4)


def test_an_odd_rank_starts_with_the_reflection_that_is_left_over():
    adapter, kernel = peft.hra(3, ("m",)), np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    params = adapter.init(jax.random.key(0), "m", {"kernel": kernel})
    after = adapter.merge(params, "m", {"kernel": kernel})["kernel"]
    np.testing.assert_allclose(after, reflected(params["h"][:, 2:], kernel), rtol=0, atol=1e-5)
    assert np.abs(after - kernel).max() > 0.1


def test_a_pair_has_a_gradient_and_a_vector_of_zeros_has_none():
    """The reflections of a pair cancel, and their gradients do not, which bfloat16 keeps; zeros give no NaN."""
    draw = np.random.default_rng(0)
    x, kernel = (jnp.asarray(draw.normal(size=shape), jnp.float32) for shape in ((5, 6), (6, 4)))
    adapter = peft.hra(2, ("m",))
    apply = unwrap(adapter.apply)  # which needs no call

    def loss(h, x):
        y = apply({"h": h}, lambda x: x @ kernel.astype(x.dtype), x, {"kernel": kernel}, None)
        return (y[:, 0] * y[:, 1]).astype(jnp.float32).sum()

    slope, h = jax.jit(jax.grad(loss)), adapter.init(jax.random.key(0), "m", {"kernel": kernel})["h"]
    exact = slope(h, x)
    assert np.abs(exact).max() > 1e-2
    np.testing.assert_allclose(exact[:, 0], -exact[:, 1], rtol=0, atol=1e-5 * np.abs(exact).max())
    np.testing.assert_array_equal(slope(jnp.zeros_like(h), x), 0)
    rounded = slope(h.astype(jnp.bfloat16), x.astype(jnp.bfloat16)).astype(jnp.float32)
    assert np.linalg.norm(rounded - exact) < 0.1 * np.linalg.norm(exact)


def test_what_would_be_wrong_raises():
    with pytest.raises(ValueError, match=r"'embed' is \(4, 4, 3, 16\); HRA takes dense layers"):
        peft.attach(*base(), peft.hra(2, ("embed",)), jax.random.key(0))
