"""Networks that normalise by their batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

from jtl import heads
from jtl.methods.adapt.test_time.norms import by_batch
from jtl.model import from_linen, from_nnx
from jtl.networks import network


class Linen(linen.Module):
    @linen.compact
    def __call__(self, x, train: bool):
        return {"pooled": linen.Dropout(0.5, deterministic=not train)(linen.Dense(8)(x))}


class Nnx(nnx.Module):
    def __init__(self, rngs):
        self.dense, self.drop = nnx.Linear(3, 8, rngs=rngs), nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        return {"pooled": self.drop(self.dense(x))}


@pytest.mark.parametrize("backbone", [from_linen(Linen()), from_nnx(Nnx)], ids=["linen", "nnx"])
def test_dropout_is_off(key, backbone):
    net, x = network(backbone=backbone, head=heads.linear(2)), jnp.ones((4, 3))
    variables = net.init(key, x)
    wanted = net.apply(variables, x, train=False)[0].output
    for seed in range(2):
        found = by_batch(net).apply(variables, x, train=True, key=jax.random.key(seed))[0].output
        np.testing.assert_allclose(found, wanted, rtol=1e-6)
    assert not np.allclose(net.apply(variables, x, train=True, key=key)[0].output, wanted)
