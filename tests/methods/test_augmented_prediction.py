import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtl import backbones, heads
from jtl.data import augment
from jtl.losses import cross_entropy
from jtl.methods.augmented_prediction import augmented_predictor
from jtl.networks import network


def test_the_prediction_is_the_mean_probability_of_the_views():
    net = network(backbone=backbones.conv4(4), head=heads.linear(3))
    x = np.random.default_rng(0).normal(size=(4, 16, 16, 3)).astype(np.float32)
    variables = net.init(jax.random.key(0), x)
    variables = variables._replace(params=jax.tree.map(lambda w: w + 0.01, variables.params))
    views = [lambda key, x: x, augment.flip(1.0), lambda key, x: x + jax.random.normal(key, x.shape)]
    found = jax.jit(augmented_predictor(net, views))(variables, x, jax.random.key(1))
    noise = jax.random.normal(jax.random.fold_in(jax.random.key(1), 2), x.shape)
    seen = [np.asarray(net.apply(variables, v, train=False)[0].output) for v in (x, x[:, :, ::-1], x + noise)]
    p = np.mean([np.exp(z) / np.exp(z).sum(1, keepdims=True) for z in seen], 0)
    np.testing.assert_allclose(jnp.exp(found), p, rtol=1e-4)
    np.testing.assert_allclose(
        cross_entropy(found, np.array([0, 1, 2, 0])), -np.log(p[np.arange(4), [0, 1, 2, 0]]), rtol=1e-3
    )
    with pytest.raises(ValueError, match="augments is empty"):
        augmented_predictor(net, [])
    two = network(backbone=backbones.mlp((4,)), a=heads.linear(2), b=heads.linear(3))
    rows = np.ones((2, 5), np.float32)
    with pytest.raises(ValueError, match="takes one head"):
        augmented_predictor(two, views[:1])(two.init(jax.random.key(0), rows), rows, jax.random.key(1))
