"""Gradient checkpointing: the same numbers in less memory."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtl import backbones
from jtl.transform.remat import checkpointed

# What XLA's CPU backend needs to keep the order that a gradient is computed in.
ORDERED: Any = {"xla_disable_hlo_passes": "cse_barrier_expander"}
NETS = {
    "vit": backbones.vit(backbones.Size(8, 3, 2, 32), patch=4, image=32, drop_path=0.5),
    "resnet": backbones.resnet([4], stem="cifar", width=4),
}


@pytest.mark.parametrize("name", NETS)
def test_numbers_stay_and_memory_shrinks(name, key):
    """All numbers but for roundings, branches dropped alike; less memory, and at most a third of what is kept."""
    net, draw = NETS[name], np.random.default_rng(0)
    x = draw.normal(size=(8, 32, 32, 3)).astype(np.float32)
    shapes = jax.eval_shape(net.init, key, x)
    variables = jax.tree.map(lambda a: draw.uniform(0.1, 1, a.shape).astype(a.dtype), shapes)

    def run(net):
        def loss(params):
            features, stats = net.apply(variables._replace(params=params), x, train=True, key=key)
            return jnp.sin(features["pooled"]).sum(), (features["stage1"], stats)

        compiled = jax.jit(jax.value_and_grad(loss, has_aux=True)).lower(variables.params).compile(ORDERED)
        kept = jax.tree.leaves(jax.eval_shape(lambda p: jax.vjp(loss, p, has_aux=True)[1], variables.params))
        memory = compiled.memory_analysis().temp_size_in_bytes
        return compiled(variables.params), memory, sum(a.size * a.dtype.itemsize for a in kept)

    (wanted, memory, kept), (found, less, fewer) = run(net), run(checkpointed(net))
    for ours, theirs in zip(found, wanted, strict=True):
        # Sums are rounded elsewhere: by 1e-6 of the largest value, and of the largest gradient.
        largest = max(float(jnp.abs(a).max()) for a in jax.tree.leaves(theirs))
        jax.tree.map(
            lambda a, b, atol=1e-6 * largest: np.testing.assert_allclose(a, b, rtol=0, atol=atol), ours, theirs
        )
    assert less < 0.6 * memory
    assert fewer < kept / 3


def test_a_network_without_blocks_is_refused(key):
    net = checkpointed(backbones.mlp([4]))
    x = jnp.ones((2, 3))
    with pytest.raises(ValueError, match="no module named block1"):
        net.apply(net.init(key, x), x, train=False)
