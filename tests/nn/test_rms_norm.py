"""Root mean square normalisation against torch's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtl.nn.rms_norm import RMSNorm

SHAPE, EPS = (2, 5, 12), 1e-3


def normalised(x, scale):
    return RMSNorm(EPS).apply({"params": {"scale": scale}}, x)


def drawn(key, dtype):
    keys = jax.random.split(key, 3)
    x = 3 + jax.random.normal(keys[0], SHAPE) * jnp.arange(1, SHAPE[1] + 1)[None, :, None]
    return [a.astype(dtype) for a in (x, jax.random.normal(keys[1], SHAPE[-1:]), jax.random.normal(keys[2], SHAPE))]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_values_and_gradients_are_torchs(dtype, key):
    torch = pytest.importorskip("torch", reason="torch is the reference; it is installed for Python 3.11 only")
    with jax.enable_x64(True):
        *inputs, g = drawn(key, dtype)
        y, back = jax.jit(lambda *a: jax.vjp(normalised, *a))(*inputs)
        found = [y, *back(g)]
        exact = [torch.tensor(np.asarray(a, np.float64), requires_grad=True) for a in inputs]
        wanted = torch.nn.functional.rms_norm(exact[0], SHAPE[-1:], exact[1], EPS)
        wanted.backward(torch.tensor(np.asarray(g, np.float64)))
    for ours, theirs in zip(found, [wanted.detach(), *(a.grad for a in exact)], strict=True):
        assert ours.dtype == dtype
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=0, atol=100 * np.finfo(dtype).eps)


def test_half_precision_is_rounded_once(key):
    """Squares of bfloat16 summed in bfloat16 would be off by a percent."""
    x, scale, _ = drawn(key, jnp.bfloat16)
    wide = np.asarray(x, np.float64)
    exact = wide / np.sqrt((wide**2).mean(-1, keepdims=True) + EPS) * np.asarray(scale, np.float64)
    found = normalised(x, scale)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(found, np.float64), exact, rtol=2**-8)
