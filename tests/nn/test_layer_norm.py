"""Layer normalisation against torch's, and what its gradient keeps."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtl.nn.layer_norm import LayerNorm

SHAPE, EPS = (2, 5, 12), 1e-5


def given(key, dtype=jnp.float32, mean=0.0):
    """An input, a scale, a bias, and the gradient of what comes out."""
    keys = jax.random.split(key, 4)
    x = mean + jax.random.normal(keys[0], SHAPE) * jnp.arange(1, SHAPE[1] + 1)[None, :, None]
    scale, bias = (jax.random.normal(k, SHAPE[-1:]) for k in keys[1:3])
    return [a.astype(dtype) for a in (x, scale, bias, jax.random.normal(keys[3], SHAPE))]


def normalised(x, scale, bias):
    return LayerNorm(EPS).apply({"params": {"scale": scale, "bias": bias}}, x)


def plain(x, scale, bias):
    """flax's own, whose derivatives are jax's."""
    norm = nn.LayerNorm(EPS, use_fast_variance=False)
    return norm.apply({"params": {"scale": scale, "bias": bias}}, x)


@pytest.mark.parametrize("mean", [0.0, 1000.0])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_values_and_gradients_are_torchs(dtype, mean, key):
    torch = pytest.importorskip("torch", reason="torch is the reference; it is installed for Python 3.11 only")
    with jax.enable_x64(True):
        *inputs, g = given(key, dtype, mean)
        y, back = jax.jit(lambda *a: jax.vjp(normalised, *a))(*inputs)
        found = [y, *back(g)]
        exact = [torch.tensor(np.asarray(a, np.float64), requires_grad=True) for a in inputs]
        wanted = torch.nn.functional.layer_norm(exact[0], SHAPE[-1:], exact[1], exact[2], EPS)
        wanted.backward(torch.tensor(np.asarray(g, np.float64)))
    for ours, theirs in zip(found, [wanted.detach(), *(a.grad for a in exact)], strict=True):
        assert ours.dtype == dtype
        # Some ten roundings of numbers near ten, and those of x itself, which are `mean` times as large.
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=0, atol=100 * (1 + mean) * np.finfo(dtype).eps)


def test_every_derivative_is_that_of_the_formula(key):
    """First and second ones, forwards and backwards, of inputs, scale and bias together, in float64."""
    with jax.enable_x64(True):
        *inputs, g = given(key, "float64")

        def derivatives(run):
            def loss(*a):
                return (jnp.sin(run(*a)) * g).sum()

            slope = jax.grad(loss, argnums=(0, 1, 2))
            along = tuple(map(jnp.cos, inputs))
            return (
                slope(*inputs),
                jax.jvp(run, tuple(inputs), along),
                jax.jvp(slope, tuple(inputs), along),
                jax.grad(lambda *a: sum((s**2).sum() for s in slope(*a)), argnums=(0, 1, 2))(*inputs),
                jax.vmap(jax.grad(loss), (0, None, None))(inputs[0][:, None], *inputs[1:]),
            )

        ours, wanted = (jax.jit(derivatives, static_argnums=0)(run) for run in (normalised, plain))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9), ours, wanted)


def test_parameters_and_number_types_are_flaxs(key):
    x = jax.random.normal(key, SHAPE)
    for dtype in (jnp.bfloat16, jnp.float32):
        ours, theirs = (norm.init(key, x.astype(dtype)) for norm in (LayerNorm(EPS), nn.LayerNorm(EPS)))
        jax.tree.map(np.testing.assert_array_equal, ours, theirs)
        for kind in (jnp.bfloat16, jnp.float32):
            cast = jax.tree.map(lambda a, kind=kind: a.astype(kind), ours)["params"]
            assert normalised(x.astype(dtype), **cast).dtype == plain(x.astype(dtype), **cast).dtype


def test_the_input_is_kept_for_the_gradient_once_and_as_it_is(key):
    *inputs, _ = given(key, jnp.bfloat16)
    _, back = jax.vjp(normalised, *inputs)
    kept = [a.dtype for a in jax.tree.leaves(back) if a.shape == SHAPE]
    assert kept == [jnp.bfloat16]
