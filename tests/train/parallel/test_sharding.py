import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from nets import batch, largest_difference, normed, parts, top

from jtl import ops
from jtl.methods.finetune.finetune import finetune
from jtl.networks import network
from jtl.params import select
from jtl.train.parallel.pmap import pmap_step, replicated, split_batch, unreplicated
from jtl.train.parallel.sharding import fsdp, jit_step, mesh, put_batch, replicate, state_sharding
from jtl.train.step import make_step
from jtl.typing import Aux

DEVICES = jax.devices()


def correlation(params, stats, batch, key, step):
    """A loss on the whole batch: the squared off-diagonal covariance of its features."""
    rows = ops.gather(batch["x"] @ params["backbone"]["layer"]["kernel"])
    centred = rows - rows.mean(0, keepdims=True)
    cov = centred.T @ centred / (len(rows) - 1)
    return ((cov - jnp.diag(jnp.diag(cov))) ** 2).sum(), Aux(stats, {})


def setup(key, name):
    rows = batch(n=32, masked=name == "batchnorm")
    net = network(backbone=normed(16), head=top(3))
    variables = net.init(key, rows["x"])
    objective = {"batchnorm": finetune(net), "batch loss": correlation}[name]
    return make_step(objective, optax.adam(1e-2), clip=1.0, ema=0.5), variables, rows


def over_mesh(key, name, grid, rules=((".*", replicate),), steps=3):
    step, variables, rows = setup(key, name)
    run, state = jit_step(step, step.init(variables, key), grid, rules)
    for _ in range(steps):
        state, metrics = run(state, put_batch(rows, grid))
    return state, metrics


def mapped(key, name, steps=3):
    step, variables, rows = setup(key, name)
    state, run = replicated(step.init(variables, key)), pmap_step(step)
    for _ in range(steps):
        state, metrics = run(state, split_batch(rows))
    for leaf in map(np.asarray, jax.tree.leaves(state.params)):
        np.testing.assert_array_equal(leaf, np.broadcast_to(leaf[:1], leaf.shape), "devices must agree to the bit")
    return unreplicated(state), metrics


@pytest.mark.parametrize("name", ["batchnorm", "batch loss"])
@pytest.mark.parametrize("how", ["jit on 8", "fsdp on 8", "pmap on 8"])
def test_every_way_to_shard_is_the_same_step(key, name, how):
    # Sums over 32 rows in another order: float32 rounding (6e-8 relative), which adam's division by the root of the
    # second moment carries into an update of 1e-2 a step. 2e-6 is 1e-4 of one step's update.
    reference, said = over_mesh(key, name, mesh(devices=DEVICES[:1]))
    if how == "pmap on 8":
        state, metrics = mapped(key, name)
    else:
        grid = mesh() if how == "jit on 8" else mesh(data=2, fsdp=4)
        rules = [(".*", replicate if how == "jit on 8" else fsdp(min_bytes=0))]
        state, metrics = over_mesh(key, name, grid, rules)
    assert largest_difference(jax.device_get(state.params), jax.device_get(reference.params)) < 2e-6
    assert (
        largest_difference(jax.device_get((state.stats, state.ema)), jax.device_get((reference.stats, reference.ema)))
        < 2e-6
    )
    for metric in said:
        np.testing.assert_allclose(metrics[metric], said[metric], rtol=1e-5, atol=1e-7)


def test_local_statistics_would_be_caught(key):
    """The test above can fail: a network that normalises each device's rows by themselves differs by far more."""
    step, variables, rows = setup(key, "batchnorm")
    state, run = step.init(variables, key), jax.jit(step)
    alone, _ = run(state, {name: value[:4] for name, value in rows.items()})
    together, _ = run(state, rows)
    assert largest_difference(alone.params, together.params) > 1e-3


def test_fsdp_cuts_parameters_and_what_follows_them(key):
    step, variables, rows = setup(key, "batchnorm")
    grid = mesh(data=2, fsdp=4)
    rules = [("backbone/layer/kernel", fsdp(min_bytes=0)), (".*", fsdp(min_bytes=1 << 20))]
    state = step.init(variables, key)
    where = state_sharding(state, grid, rules)
    assert where.params["backbone"]["layer"]["kernel"].spec == PartitionSpec(None, "fsdp")
    assert where.params["head"]["out"]["kernel"].spec == PartitionSpec()
    assert where.ema["backbone"]["layer"]["kernel"].spec == PartitionSpec(None, "fsdp")
    moments = where.opt[0][0].mu["backbone"]["layer"]["kernel"]
    assert moments.spec == PartitionSpec(None, "fsdp")
    # Muon's state has the groups' names before the paths.
    grouped = make_step(correlation, optax.contrib.muon(1e-2)).init(variables, key)
    moments = state_sharding(grouped, grid, rules).opt[0].inner_states["muon"].inner_state[0].mu
    assert moments["backbone"]["layer"]["kernel"].spec == PartitionSpec(None, "fsdp")
    run, state = jit_step(step, state, grid, rules)
    state, _ = run(state, put_batch(rows, grid))
    kernel = state.params["backbone"]["layer"]["kernel"]
    assert {shard.data.shape for shard in kernel.addressable_shards} == {(5, 4)}


def collective_bytes(text):
    """Bytes that the all-reduces of a compiled program carry."""
    size = {"f32": 4, "s32": 4, "u32": 4, "pred": 1, "bf16": 2}
    found = 0
    for line in text.splitlines():
        head = re.match(
            r"\s*(?:ROOT )?\S+ = (.*?) (all-reduce|all-gather|reduce-scatter|all-to-all)(?:-start)?\(", line
        )
        if head:
            for dtype, dims in re.findall(r"(\w+)\[([\d,]*)\]", head[1]):
                found += size[dtype] * int(np.prod([int(d) for d in dims.split(",") if d] or [1]))
    return found


def test_a_head_only_step_reduces_the_head_alone(key):
    rows = batch(n=32, dim=64)
    net, _, variables = parts(key, rows["x"], widths=(256, 64), classes=10)
    sizes = {}
    for name, pattern in {"head": "head/.*", "all": ".*"}.items():
        step = make_step(finetune(net, frozen_stats=True), optax.sgd(0.1), trainable=select(pattern))
        run, state = jit_step(step, step.init(variables, key), mesh())
        sizes[name] = collective_bytes(run.lower(state, put_batch(rows, mesh())).compile().as_text())
    heads = sum(4 * leaf.size for leaf in jax.tree.leaves(variables.params["head"]))
    everything = sum(4 * leaf.size for leaf in jax.tree.leaves(variables.params))
    scalars = 64  # loss, accuracy and their counts
    assert heads <= sizes["head"] <= heads + scalars
    assert everything <= sizes["all"] <= everything + scalars


def test_microbatches_move_no_rows_between_devices(key):
    rows = batch(n=64)
    net, _, variables = parts(key, rows["x"])
    texts = []
    for microbatch in (1, 4):
        step = make_step(finetune(net), optax.sgd(0.1), microbatch=microbatch)
        run, state = jit_step(step, step.init(variables, key), mesh())
        texts.append(run.lower(state, put_batch(rows, mesh())).compile().as_text())
    assert "all-to-all" not in texts[1]
    assert "all-gather" not in texts[1]
    assert "collective-permute" not in texts[1]


def test_errors_name_what_does_not_fit(key):
    with pytest.raises(ValueError, match="data=3 x fsdp=2 does not cover 8 devices"):
        mesh(data=3, fsdp=2)
    with pytest.raises(ValueError, match=r"batch\['x'\] of shape \(0, 5\) has no rows"):
        put_batch(batch(n=0), mesh())
    with pytest.raises(TypeError, match=r"batch\['y'\] is a list; give an array"):
        put_batch({"x": np.ones((8, 5), np.float32), "y": [0] * 8}, mesh())
    for cut in (lambda b: put_batch(b, mesh()), split_batch):
        with pytest.raises(ValueError, match=r"batch\['x'\] of shape \(10, 5\) does not divide over 8 devices"):
            cut(batch(n=10))


def test_a_mesh_of_ones_own_has_auto_axes_too(key):
    """Explicit axes, jax's default, would have a product of batch and parameter say how it is cut."""
    theirs = jax.make_mesh((2, 4), ("data", "fsdp"), axis_types=(jax.sharding.AxisType.Explicit,) * 2)
    rules = [(".*", fsdp(min_bytes=0))]
    state, _ = over_mesh(key, "batchnorm", theirs, rules, steps=1)
    assert state.params["backbone"]["layer"]["kernel"].sharding == NamedSharding(
        mesh(data=2, fsdp=4), PartitionSpec(None, "fsdp")
    )
    with pytest.raises(ValueError, match=r"axes \('batch',\); .* use jtl.mesh"):
        put_batch(batch(n=8), jax.sharding.Mesh(np.array(DEVICES), ("batch",)))


def test_the_mesh_has_auto_axes():
    assert mesh().axis_types == (jax.sharding.AxisType.Auto,) * 2
    assert dict(mesh(fsdp=4).shape) == {"data": 2, "fsdp": 4}
