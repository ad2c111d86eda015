"""States of a run that never ran, to save and to compare."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jtl.train import State


def make(step=0, width=8):
    key = jax.random.key(step + 7)

    def draw(i, *shape):
        return jax.random.normal(jax.random.fold_in(key, i), shape)

    params = {"backbone": {"kernel": draw(0, 16, width)}, "head": {"bias": draw(1, 3).astype(jnp.bfloat16)}}
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(optax.linear_schedule(1e-3, 0.0, 9)))
    opt = jax.tree.map(lambda a: a + 1, tx.init(params))
    stats = {"backbone": {"mean": draw(2, 4), "seen": jnp.int32(step)}}
    return State(jnp.int32(step), params, stats, (opt,), key, {"head": {"bias": draw(3, 3)}})


def same(a, b):
    def raw(s):
        return s._replace(key=jax.random.key_data(s.key))

    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(raw(a)), jax.tree.leaves(raw(b)), strict=True):
        assert x.dtype == y.dtype
        assert np.array_equal(x, y)
