import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from nets import batch, dense, normed, top

from jtl.methods.finetune.finetune import finetune
from jtl.methods.finetune.stoch_norm import stoch_norm
from jtl.networks import network
from jtl.params import select
from jtl.train.step import make_step


@pytest.fixture(scope="module")
def setup():
    rows = batch()
    net = network(backbone=normed(8), head=top(3))
    start = net.init(jax.random.key(0), rows["x"])
    norm = {"mean": jnp.linspace(-1, 1, 8), "var": jnp.linspace(0.5, 2, 8)}
    return rows, net, start._replace(stats={"backbone": {"norm": norm}})


def test_p_1_is_batch_norm_and_p_0_that_of_evaluation_with_moving_statistics(setup):
    rows, net, start = setup
    key = jax.random.key(1)
    batch_out, moved = net.apply(start, rows["x"], train=True, key=key)
    plain = net.apply(start, rows["x"], train=False)[0].output
    for p, expected in ((1.0, batch_out.output), (0.0, plain)):
        found, stats = stoch_norm(net, p).apply(start, rows["x"], train=True, key=key)
        np.testing.assert_allclose(found.output, expected, rtol=1e-5, atol=1e-6)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), stats, moved)
    assert not np.allclose(batch_out.output, plain, atol=0.1)
    found, stats = stoch_norm(net, 0.5).apply(start, rows["x"], train=False)
    np.testing.assert_array_equal(found.output, plain)
    jax.tree.map(np.testing.assert_array_equal, stats, start.stats)


def test_each_channel_is_one_of_the_two_at_the_probability(setup):
    rows, _, start = setup
    body = normed(8)
    own = start._replace(params=start.params["backbone"], stats=start.stats["backbone"])
    of_batch = body.apply(own, rows["x"], train=True, key=jax.random.key(1))[0]["last"]
    of_running = body.apply(own, rows["x"], train=False)[0]["last"]
    changed = stoch_norm(body, 0.25)
    run = jax.jit(jax.vmap(lambda key: changed.apply(own, rows["x"], train=True, key=key)[0]["last"]))
    found = run(jax.random.split(jax.random.key(2), 400))
    first = jnp.abs(found - of_batch[None]).max(1) < 1e-4
    assert (first | (jnp.abs(found - of_running[None]).max(1) < 1e-4)).all()
    assert abs(float(first.mean()) - 0.25) < 0.03  # 3200 draws
    assert (first.mean(0) > 0.1).all()
    assert (first.any(1) & ~first.all(1)).any()


def test_a_frozen_norm_stays(setup):
    rows, net, start = setup
    objective = finetune(stoch_norm(net, 0.5))
    step = make_step(objective, optax.sgd(0.1), trainable=select("head/.*"))
    state, _ = jax.jit(step)(step.init(start, jax.random.key(0)), rows)
    jax.tree.map(np.testing.assert_array_equal, state.stats, start.stats)


def test_bad_input_raises(setup):
    rows, net, start = setup
    with pytest.raises(ValueError, match=r"p=1\.5"):
        stoch_norm(net, 1.5)
    with pytest.raises(ValueError, match="give a key"):
        stoch_norm(net).apply(start, rows["x"], train=True)
    other = stoch_norm(dense(4))
    with pytest.raises(ValueError, match="has no BatchNorm"):
        other.apply(other.init(jax.random.key(0), rows["x"]), rows["x"], train=False)
