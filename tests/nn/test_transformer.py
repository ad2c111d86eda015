"""GELU against torch's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtl.nn.transformer import exact_gelu


@pytest.mark.parametrize(("dtype", "unit"), [("float64", 2**-52), ("float32", 2**-23), ("bfloat16", 2**-8)])
def test_gelu_and_its_gradient_are_torchs(dtype, unit):
    """To rounding, with Φ as exact as float32 has it near 0: half precision alone would lose its tail."""
    torch = pytest.importorskip("torch", reason="torch is the reference; it is installed for Python 3.11 only")
    x = np.linspace(-9, 9, 4001)
    theirs = torch.tensor(x, dtype=getattr(torch, dtype), requires_grad=True)
    value = torch.nn.functional.gelu(theirs)
    value.sum().backward()
    with jax.enable_x64(True):
        ours = jnp.asarray(x, dtype)
        found, slope = jax.jit(lambda a: (exact_gelu(a), jax.grad(lambda b: exact_gelu(b).sum())(a)))(ours)
    assert found.dtype == slope.dtype == dtype
    for ours, wanted in ((found, value.detach()), (slope, theirs.grad)):
        np.testing.assert_allclose(
            np.asarray(ours, np.float64), wanted.double().numpy(), 2 * unit, 8 * min(unit, 2**-23)
        )
