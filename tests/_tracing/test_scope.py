"""Which leaves a step knows in full precision."""

import jax
import jax.numpy as jnp

from jtl._tracing import scope


def test_only_leaves_that_were_cast_are_unrounded():
    full = {"a": jnp.ones(2), "b": jnp.zeros(3)}
    low = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), full)
    moved = {**low, "b": low["b"] + 1}
    with scope.rounded(full, low):
        found = scope.unrounded(moved)
    assert found["a"] is full["a"]
    assert found["b"] is moved["b"]
    assert scope.unrounded(low)["a"] is low["a"]  # nothing is known outside
