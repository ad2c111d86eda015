import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from nets import batch, normed, top

from jtl import model
from jtl.methods.finetune.finetune import finetune
from jtl.networks import network
from jtl.train.parallel.pmap import pmap_step, replicated, split_batch, unreplicated
from jtl.train.step import make_step
from jtl.typing import Aux

DEVICES = jax.devices()


def test_under_pmap_every_device_draws_for_itself(key):
    """Of equal keys the mean over the devices' 8 draws would be one draw, eight times."""

    def drawn(params, stats, batch, key, step):
        own = jax.random.uniform(key)
        return params["w"] * own, Aux(stats, {"mean": own, "square": own**2})

    step = make_step(drawn, optax.sgd(1.0))
    state = replicated(step.init(model.Variables({"w": jnp.ones(())}, {}), key))
    state, found = pmap_step(step)(state, split_batch({"x": np.zeros(8)}))
    assert found["square"] - found["mean"] ** 2 > 0.01  # the variance of uniform draws is 1/12
    np.testing.assert_allclose(state.params["w"], np.full(8, 1 - found["mean"]), rtol=1e-6)


def begun(key):
    net = network(backbone=normed(16), head=top(3))
    variables = net.init(key, batch(n=32)["x"])
    return make_step(finetune(net), optax.adam(1e-2), ema=0.5).init(variables, key)


def test_each_device_gets_one_state_of_its_own(key):
    state = begun(key)
    for leaf, one in zip(jax.tree.leaves(replicated(state)), jax.tree.leaves(state), strict=True):
        assert {(s.device, s.data.shape) for s in leaf.addressable_shards} == {(d, (1, *one.shape)) for d in DEVICES}


def test_the_way_back_is_to_the_bit_and_runs_on_one_device(key):
    """`a[0]` is a program of all devices: dozens of them at once have stood still for ever on eight simulated CPUs."""
    state = begun(key)
    back = unreplicated(replicated(state))
    for one, before in zip(jax.tree.leaves(back), jax.tree.leaves(state), strict=True):
        assert one.devices() == {DEVICES[0]}
        assert one.dtype == before.dtype
        raw = [jax.random.key_data(a) if jnp.issubdtype(a.dtype, jax.dtypes.prng_key) else a for a in (one, before)]
        np.testing.assert_array_equal(*raw)


@pytest.mark.parametrize("whole", [jnp.ones((8, 2)), np.ones((8, 2)), jnp.ones(())])
def test_what_does_not_lie_side_by_side_is_named(whole):
    with pytest.raises(ValueError, match=r"\['w'\] of shape .* is not one part per device"):
        unreplicated({"w": whole})


def test_rows_that_do_not_divide_are_named():
    with pytest.raises(ValueError, match=r"batch\['x'\] of shape \(12, 2\) does not divide over 8 devices"):
        split_batch({"x": np.ones((12, 2))})
    assert split_batch({"x": np.ones((12, 2))}, DEVICES[:4])["x"].shape == (4, 3, 2)
