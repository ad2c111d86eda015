import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jtl import optim
from jtl.params import flatten

PARAMS = {
    "backbone": {"stem": {"kernel": jnp.ones((2, 2))}, "block1": {"kernel": jnp.ones((2, 2)), "scale": jnp.ones(2)}},
    "head": {"kernel": jnp.ones((2, 3)), "bias": jnp.zeros(3)},
}
GRADS = jax.tree.map(lambda p: jnp.arange(p.size, dtype=p.dtype).reshape(p.shape) + 1, PARAMS)


def moved(tx, steps=3):
    params, state = PARAMS, tx.init(PARAMS)
    for _ in range(steps):
        updates, state = tx.update(GRADS, state, params)
        params = optax.apply_updates(params, updates)
    return params


def test_a_group_learns_as_with_an_optimizer_of_its_own():
    ours = moved(optax.chain(optax.adamw(1e-2, weight_decay=0.1), optim.scale([("head/.*", 0.1), (".*", 1.0)])))
    groups = jax.tree.map_with_path(lambda path, _: path[0].key, PARAMS)
    theirs = moved(
        optax.partition(
            {n: optax.adamw(lr, weight_decay=0.1) for n, lr in {"backbone": 1e-2, "head": 1e-3}.items()}, groups
        )
    )
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_a_factor_may_follow_the_step():
    tx = optax.chain(optax.sgd(1.0), optim.scale([(".*", lambda step: jnp.where(step < 2, 0.0, 1.0))]))
    jax.tree.map(lambda p, q, g: np.testing.assert_allclose(p, q - g), moved(tx), PARAMS, GRADS)


def test_groups_must_match_all_and_each_something():
    with pytest.raises(ValueError, match="matched by no pattern"):
        optim.scale([("head/.*", 0.1)]).init(PARAMS)
    with pytest.raises(ValueError, match="matches no parameter"):
        optim.scale([("neck/.*", 0.1), (".*", 1.0)]).init(PARAMS)


def test_layer_decay_falls_by_its_rate_from_the_head_down():
    table = optim.layer_decay(PARAMS, ["backbone/stem/.*", "backbone/block1/.*", "head/.*"], 0.5)
    assert table == [("backbone/stem/.*", 0.25), ("backbone/block1/.*", 0.5), ("head/.*", 1.0)]
    for bad in (0.0, 1.5):
        with pytest.raises(ValueError, match=f"rate={bad}"):
            optim.layer_decay(PARAMS, [".*"], bad)
    with pytest.raises(ValueError, match="matched by no pattern"):
        optim.layer_decay(PARAMS, ["head/.*"], 0.5)


def test_norms_and_biases_do_not_decay():
    assert flatten(optim.decayed(PARAMS)) == {
        "backbone/stem/kernel": True, "backbone/block1/kernel": True, "backbone/block1/scale": False,
        "head/kernel": True, "head/bias": False,
    }  # fmt: skip
    zero = jax.tree.map(jnp.zeros_like, GRADS)
    tx = optax.adamw(0.1, weight_decay=0.5, mask=optim.decayed)
    updates, _ = tx.update(zero, tx.init(PARAMS), PARAMS)
    np.testing.assert_allclose(updates["head"]["kernel"], -0.05)
    np.testing.assert_array_equal(updates["backbone"]["block1"]["scale"], 0.0)


def test_warmup_rises_and_the_cosine_falls_to_zero():
    schedule = optim.warmup_cosine(0.3, 100, warmup=0.1)
    np.testing.assert_allclose(
        [schedule(0), schedule(5), schedule(10), schedule(55), schedule(100)], [0, 0.15, 0.3, 0.15, 0], atol=1e-6
    )
    np.testing.assert_allclose(optim.warmup_cosine(0.3, 100, warmup=0.0)(0), 0.3, rtol=1e-6)
    with pytest.raises(ValueError, match="warmup=1"):
        optim.warmup_cosine(0.3, 100, warmup=1)
    with pytest.raises(ValueError, match="total_steps=0"):
        optim.annealed(0.3, 0)
