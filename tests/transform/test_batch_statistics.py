"""A batch's own statistics against numpy, whatever the momentum and however large they are."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtl.model import from_linen
from jtl.nn.batch_norm import BatchNorm
from jtl.transform.batch_statistics import of_batch

X = np.random.default_rng(0).normal(size=(9, 5)).astype(np.float32)


class Norms(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        return BatchNorm(name="norm")(x, train) + BatchNorm(name="frozen")(x, False)


@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_they_are_the_batchs_and_a_frozen_layer_does_not_move(scale):
    net, x = from_linen(Norms()), jnp.asarray(scale * (X + 0.5))
    found, share = of_batch(net, net.init(jax.random.key(0), x), x, jax.random.key(1))
    wide = np.asarray(x, np.float64)
    np.testing.assert_allclose(found["norm"]["mean"], wide.mean(0), rtol=1e-5)
    np.testing.assert_allclose(found["norm"]["var"], wide.var(0, ddof=1), rtol=1e-5)
    np.testing.assert_allclose(share["norm"]["var"], np.full(5, 0.1), rtol=1e-5)
    assert all((np.asarray(leaf) == 0).all() for leaf in jax.tree.leaves((found["frozen"], share["frozen"])))
