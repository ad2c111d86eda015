"""The step under `jax.pmap`: one copy of the state and one part of the batch per device."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jtl import ops
from jtl.params import flatten
from jtl.train.parallel.consistency import agree, checksums
from jtl.train.state import State
from jtl.train.step import Step
from jtl.typing import Batch


def pmap_step(step: Step, devices: Sequence[Any] | None = None) -> Callable[[State, Any], tuple[State, dict]]:
    """The same step under `jax.pmap`, one part of the batch per device, on all devices or only on `devices`.

        run, state = jtl.pmap_step(step), jtl.replicated(state)
        state, metrics = run(state, jtl.split_batch(batch))
        state = jtl.unreplicated(state)

    Gradients, counts and BatchNorm statistics are summed over the devices, and losses on the whole batch gather it, so
    the result is that of `jit_step`. Each device draws its own random numbers. The state is donated.

    Returns:
      A step on states from `replicated` and batches from `split_batch`; its metrics are those of one device, because
      all devices have the same.

    Example:
      >>> import jax, jax.numpy as jnp, jtl, optax
      >>> net = jtl.network(backbone=jtl.backbones.mlp((8,)), head=jtl.heads.linear(3))
      >>> batch = {"x": jnp.ones((8, 5)), "y": jnp.zeros(8, int)}
      >>> step = jtl.make_step(jtl.finetune(net), optax.sgd(0.1), ema=0.9)
      >>> state = step.init(net.init(jax.random.key(0), batch["x"]), jax.random.key(1))
      >>> run, state = jtl.pmap_step(step, jax.devices()[:1]), jtl.replicated(state, jax.devices()[:1])
      >>> state, metrics = run(state, jtl.split_batch(batch, jax.devices()[:1]))
      >>> int(jtl.unreplicated(state).step)
      1
    """
    return jax.pmap(
        step.update,
        axis_name=ops.BATCH_AXIS,
        devices=None if devices is None else list(devices),  # None spans processes, a list of one's own does not
        out_axes=(0, None),
        donate_argnums=0,
    )


def replicated(state: State, devices: Sequence[Any] | None = None) -> State:
    """Copies the state to each of this process's devices, along a new first axis, for `pmap_step`.

    Raises:
      ValueError: for a state that differs between processes, because its copies would diverge.

    Example:
      >>> import jax, jax.numpy as jnp, jtl, optax
      >>> net = jtl.network(backbone=jtl.backbones.mlp((8,)), head=jtl.heads.linear(3))
      >>> batch = {"x": jnp.ones((8, 5)), "y": jnp.zeros(8, int)}
      >>> step = jtl.make_step(jtl.finetune(net), optax.sgd(0.1), ema=0.9)
      >>> state = step.init(net.init(jax.random.key(0), batch["x"]), jax.random.key(1))
      >>> jtl.replicated(state, jax.devices()[:1]).step.shape
      (1,)
    """
    everywhere = jax.devices() if devices is None else list(devices)
    sums = checksums(flatten(state.params))
    agree(Mesh(np.asarray(everywhere), "devices"), "processes begin with different parameters; give all the same", sums)
    own = _own(devices)
    where = NamedSharding(Mesh(np.asarray(own), (ops.BATCH_AXIS,)), PartitionSpec(ops.BATCH_AXIS))

    def stacked(leaf):
        if jnp.issubdtype(jnp.result_type(leaf), jax.dtypes.prng_key):
            return jax.random.wrap_key_data(stacked(jax.random.key_data(leaf)), impl=jax.random.key_impl(leaf))
        one = jnp.asarray(leaf)[None]
        parts = [jax.device_put(one, device) for device in own]
        return jax.make_array_from_single_device_arrays((len(own), *one.shape[1:]), where, parts)

    return jax.tree.map(stacked, state)


def unreplicated(tree: Any) -> Any:
    """The first device's copy of a replicated tree: the inverse of `replicated`.

    The copy is read on its device: `a[0]` of an array on many devices would be a program on all of them, with an
    all-reduce, for every leaf of the tree.

    Raises:
      ValueError: for a leaf that does not have one part per device.

    Example:
      >>> import jax, jax.numpy as jnp, jtl, optax
      >>> net = jtl.network(backbone=jtl.backbones.mlp((8,)), head=jtl.heads.linear(3))
      >>> batch = {"x": jnp.ones((8, 5)), "y": jnp.zeros(8, int)}
      >>> step = jtl.make_step(jtl.finetune(net), optax.sgd(0.1), ema=0.9)
      >>> state = step.init(net.init(jax.random.key(0), batch["x"]), jax.random.key(1))
      >>> jtl.unreplicated(jtl.replicated(state, jax.devices()[:1])).step.shape
      ()
    """

    def first(path, leaf):
        shards = leaf.addressable_shards if isinstance(leaf, jax.Array) else ()
        if not shards or shards[0].data.shape != (1, *leaf.shape[1:]):
            raise ValueError(
                f"{jax.tree_util.keystr(path)} of shape {np.shape(leaf)} is not one part per device;"
                " give what pmap_step or replicated returned"
            )
        return shards[0].data.reshape(leaf.shape[1:])

    return jax.tree_util.tree_map_with_path(first, tree)


def split_batch(batch: Batch, devices: Sequence[Any] | None = None) -> Any:
    """Splits rows [batch, ...] of this process into [devices, batch/devices, ...], over its own devices.

    Raises:
      ValueError: for rows that do not divide over the devices.

    Example:
      >>> import jax, numpy as np, jtl
      >>> jtl.split_batch({"x": np.ones((4, 5))}, jax.devices()[:1])["x"].shape
      (1, 4, 5)
    """
    n = len(_own(devices))
    for path, leaf in flatten(batch).items():
        if np.ndim(leaf) == 0 or len(leaf) % n:
            raise ValueError(
                f"batch[{path!r}] of shape {np.shape(leaf)} does not divide over {n} devices; choose a multiple"
            )
    return jax.tree.map(lambda a: np.asarray(a).reshape(n, -1, *np.shape(a)[1:]), dict(batch))


def _own(devices: Sequence[Any] | None) -> list[Any]:
    given = jax.local_devices() if devices is None else devices
    return [device for device in given if device.process_index == jax.process_index()]
