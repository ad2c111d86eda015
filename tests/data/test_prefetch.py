"""Prefetch: order, placement, errors, early close."""

import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtl import data


def threads():
    return [t for t in threading.enumerate() if t.name.startswith("jtl-prefetch")]


def test_batches_come_in_order_on_device_without_implicit_transfers():
    ds = data.arrays(np.arange(20), batch_size=4, seed=1)
    double = jax.jit(lambda x: x + x)
    batches = data.prefetch(ds, start_step=3)
    with jax.transfer_guard("disallow"):
        got = [double(next(batches)["x"]) for _ in range(5)]
    batches.close()
    for step, x in zip(range(3, 8), got, strict=True):
        assert isinstance(x, jax.Array)
        assert (np.asarray(x) == 2 * ds[step]["x"]).all()


def test_put_decides_the_placement():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    ds = data.arrays(np.arange(16), batch_size=8)
    batches = data.prefetch(ds, put=lambda batch: jax.device_put(batch, sharding))
    assert next(batches)["x"].sharding == sharding
    batches.close()


def test_threads_have_the_callers_settings():
    """jax keeps settings of a context by thread."""

    class Drawn:
        def __getitem__(self, step):
            return jnp.full(2, step / 3) + np.full(2, 2.0**-40)

    device = jax.devices()[5]
    with jax.enable_x64(True), jax.default_device(device):
        batches = data.prefetch(Drawn(), 1, stop_step=3)
    got = list(batches)
    assert [(x.dtype, x.devices()) for x in got] == [(np.float64, {device})] * 2
    np.testing.assert_array_equal(got[0], np.full(2, 1 / 3) + 2.0**-40)
    with jax.numpy_rank_promotion("raise"):
        strict = data.prefetch([np.ones((2, 2))], put=lambda x: jnp.asarray(x) + jnp.ones(2), stop_step=1)
    with pytest.raises(ValueError, match=r"jax_numpy_rank_promotion=.raise"):
        next(strict)
    with jax.numpy_rank_promotion("allow"):
        lax = data.prefetch([np.ones((2, 2))], put=lambda x: jnp.asarray(x) + jnp.ones(2), stop_step=1)
    assert next(lax).shape == (2, 2)


def test_functions_of_a_data_set_are_not_compiled_again_for_the_threads():
    traces = []

    @jax.jit
    def double(x):
        traces.append(x)
        return 2 * x

    double(np.ones(3))
    list(data.prefetch([np.ones(3), np.ones(3)], put=double, stop_step=2))
    assert len(traces) == 1


def test_an_error_comes_at_its_step_and_ends_the_threads():
    class Bad:
        def __getitem__(self, step):
            if step == 2:
                raise ValueError("step 2 is broken")
            return step

    batches = data.prefetch(Bad(), put=lambda batch: batch)
    assert [next(batches), next(batches)] == [0, 1]
    with pytest.raises(ValueError, match="step 2 is broken"):
        next(batches)
    assert not threads()


def test_closing_early_ends_the_threads_and_reads_no_further():
    read = []

    class Recorded:
        def __getitem__(self, step):
            read.append(step)
            return step

    batches = data.prefetch(Recorded(), put=lambda batch: batch, ahead=3)
    next(batches)
    batches.close()
    assert not threads()
    assert max(read) <= 3


@pytest.mark.parametrize(("name", "value"), [("ahead", 0), ("threads", 0), ("start_step", -1)])
def test_bad_options(name, value):
    with pytest.raises(ValueError, match=f"{name}={value}: must be"):
        data.prefetch([], **{name: value})
