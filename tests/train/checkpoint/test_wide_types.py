"""Checkpoints of 64-bit arrays: they come back as they were written, or jax's setting is named."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jtl
from jtl.train import Checkpoints, State
from jtl.weights.formats.orbax import read_checkpoint


def make():
    """A state of float64 and int64 arrays, beside a float32 one: 1/3 is another number in float32."""
    params = {"body": {"w": jnp.full((4, 3), 1 / 3, jnp.float64)}, "head": {"b": jnp.ones(3, jnp.float32)}}
    stats = {"seen": jnp.full((), 2**40 + 1, jnp.int64)}
    return State(jnp.int32(1), params, stats, (optax.adam(1e-3).init(params),), jax.random.key(0), {})


@pytest.fixture(scope="module", params=[None, {"body/w": False, "head/b": True}], ids=["whole", "frozen apart"])
def saved(tmp_path_factory, request):
    saver = Checkpoints(tmp_path_factory.mktemp("wide"))
    with jax.enable_x64(True):
        saver.save(make(), trains=request.param)
        saver.wait()
    return saver.directory


def test_a_state_comes_back_where_only_this_thread_has_x64(saved):
    """Orbax reads in threads of its own, which do not have the setting."""
    with jax.enable_x64(True):
        state, want = Checkpoints(saved).restore(make()), make()
        assert state.params["body"]["w"].dtype == jnp.float64
        for found, like in zip(jax.tree.leaves(state[:4]), jax.tree.leaves(want[:4]), strict=True):
            assert (found.dtype, found.sharding) == (like.dtype, like.sharding)
            np.testing.assert_array_equal(found, like)
        jax.jit(lambda s: s._replace(step=s.step + 1), donate_argnums=0)(state)
        assert state.params["body"]["w"].is_deleted()
        variables = Checkpoints(saved).variables()
        np.testing.assert_array_equal(variables.params["body"]["w"], want.params["body"]["w"])
        np.testing.assert_array_equal(variables.stats["seen"], want.stats["seen"])


def test_onto_several_devices(saved):
    four = jtl.mesh(devices=jax.devices()[:4])
    with jax.enable_x64(True):
        place = jax.NamedSharding(four, jax.P())
        like = jax.tree.map(lambda a: jax.device_put(a, place), make())
        kernel = jax.device_put(make().params["body"]["w"], jax.NamedSharding(four, jax.P("data")))
        like.params["body"]["w"] = kernel
        found = Checkpoints(saved).restore(like).params["body"]["w"]
        assert (found.dtype, found.sharding) == (jnp.float64, kernel.sharding)
        np.testing.assert_array_equal(found, kernel)


def test_without_x64_variables_are_refused_and_not_narrowed(saved):
    with pytest.raises(ValueError, match=r"'[\w/]+' is of type (float|int)64.*jax_enable_x64 is off: read it inside"):
        Checkpoints(saved).variables()


def test_files_are_read_as_they_are_without_x64(saved):
    found = read_checkpoint(saved)
    assert found["body/w"].dtype == np.float64
    np.testing.assert_array_equal(found["body/w"], np.full((4, 3), 1 / 3))
    assert int(found["stats/seen"]) == 2**40 + 1
