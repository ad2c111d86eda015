"""Shards states and batches over a mesh, and compiles the step for it."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jtl.checked import whole, within
from jtl.model import Variables
from jtl.params import flatten, match, unflatten
from jtl.train.parallel.consistency import agree, checksums
from jtl.train.parallel.place import place
from jtl.train.state import State
from jtl.train.step import Step
from jtl.typing import Batch, Params

Rule = Callable[[tuple[int, ...], Mesh], PartitionSpec]
"""A function from a parameter's shape and a mesh to the parameter's sharding."""


def mesh(*, data: int | None = None, fsdp: int = 1, devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh of devices with the axes `data` and `fsdp`.

    Batches are sharded over both axes, parameters over `fsdp` if a rule says so.

    Args:
      data: the number of groups of devices; None for as many as there are devices for.
      fsdp: the number of devices in each group, over which it shards its parameters.
      devices: the devices of the mesh; all by default.

    Raises:
      ValueError: for numbers that are not integers of at least 1, or whose product is not the number of devices.

    Example:
      >>> import jax, jtl
      >>> dict(jtl.mesh(devices=jax.devices()[:1]).shape)
      {'data': 1, 'fsdp': 1}
    """
    whole(1, fsdp=fsdp, **{} if data is None else {"data": data})
    devices = list(jax.devices() if devices is None else devices)
    data = len(devices) // fsdp if data is None else data
    if data * fsdp != len(devices):
        raise ValueError(f"a mesh of data={data} x fsdp={fsdp} does not cover {len(devices)} devices")
    return jax.make_mesh((data, fsdp), ("data", "fsdp"), devices=devices, axis_types=(AxisType.Auto,) * 2)


def automatic(mesh: Mesh) -> Mesh:
    """The mesh with Auto axes: the explicit axes of `jax.make_mesh` need a sharding in every operation.

    Raises:
      ValueError: for a mesh without the axes `data` and `fsdp`.
    """
    if not {"data", "fsdp"} <= set(mesh.axis_names):
        raise ValueError(
            f"the mesh has the axes {mesh.axis_names}; batches are sharded over 'data' and 'fsdp': use jtl.mesh(...)"
        )
    auto = (AxisType.Auto,) * len(mesh.axis_names)
    return mesh if mesh.axis_types == auto else Mesh(mesh.devices, mesh.axis_names, axis_types=auto)


def replicate(shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    """The rule that keeps a whole copy on every device.

    Example:
      >>> import jax, jtl
      >>> tuple(jtl.replicate((6, 4), jtl.mesh(devices=jax.devices()[:1])))
      ()
    """
    del shape, mesh
    return PartitionSpec()


def fsdp(min_bytes: int = 1 << 20) -> Rule:
    """The rule that shards a parameter over the mesh's `fsdp` axis, along its largest divisible dimension.

    Args:
      min_bytes: a smaller parameter, counted in float32 bytes, stays whole on every device.

    Raises:
      ValueError: for a number of bytes that is negative or not finite.

    Example:
      >>> import jax, jtl
      >>> tuple(jtl.fsdp(min_bytes=0)((6, 4), jtl.mesh(devices=jax.devices()[:1])))
      ('fsdp',)
    """
    within("[0, inf]", min_bytes=min_bytes)

    def rule(shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
        parts = mesh.shape["fsdp"]
        fitting = [(n, -axis) for axis, n in enumerate(shape) if n % parts == 0]
        if 4 * int(np.prod(shape)) < min_bytes or not fitting:
            return PartitionSpec()
        axis = -max(fitting)[1]
        return PartitionSpec(*[None] * axis, "fsdp")

    return rule


def state_sharding(state: State, mesh: Mesh, rules: Sequence[tuple[str, Rule]] = ((".*", replicate),)) -> State:
    """The sharding of every leaf of a state, as a tree like it.

    Args:
      state: the state, or its shapes.
      mesh: made by `mesh(...)`.
      rules: first match wins, over parameter paths. Optimizer state and averages follow their parameter.
    """
    mesh = automatic(mesh)
    specs = _specs(state.params, rules, mesh)
    shapes = {path: leaf.shape for path, leaf in flatten(state.params).items()}

    def place(keys, leaf):
        names = [str(k.key) for k in keys if isinstance(k, jax.tree_util.DictKey)]
        # Optimizers with several groups (multi_transform, muon) put the group's name before the path.
        paths = ("/".join(names[i:]) for i in range(len(names)))
        path = next((path for path in paths if path in specs), "")
        follows = shapes.get(path) == leaf.shape
        return NamedSharding(mesh, specs[path] if follows else PartitionSpec())

    whole = jax.tree.map(lambda _: NamedSharding(mesh, PartitionSpec()), state)
    followers = jax.tree_util.tree_map_with_path(place, (state.params, state.opt, state.ema))
    return whole._replace(params=followers[0], opt=followers[1], ema=followers[2])


def variables_sharding(
    mesh: Mesh, rules: Sequence[tuple[str, Rule]] = ((".*", replicate),)
) -> Callable[[Variables], Variables]:
    """The shardings of a network's variables, by rules as in `jit_step`, for `jtl.load(..., sharding=)`.

    Args:
      mesh: made by `mesh(...)`.
      rules: first match wins, over parameter paths. Statistics are whole on every device.

    Returns:
      A function from variables, or their shapes, to the sharding of each leaf.

    Example:
      >>> import jax, jtl
      >>> where = jtl.variables_sharding(jtl.mesh(devices=jax.devices()[:1]), [(".*", jtl.fsdp())])
    """
    mesh = automatic(mesh)

    def where(variables: Variables) -> Variables:
        whole = NamedSharding(mesh, PartitionSpec())
        return Variables(
            unflatten({p: NamedSharding(mesh, spec) for p, spec in _specs(variables.params, rules, mesh).items()}),
            jax.tree.map(lambda _: whole, variables.stats),
        )

    return where


def _specs(params: Params, rules: Sequence[tuple[str, Rule]], mesh: Mesh) -> dict[str, PartitionSpec]:
    """How each parameter is sharded, by its path."""
    rule = flatten(match(rules, params))
    return {path: rule[path](leaf.shape, mesh) for path, leaf in flatten(params).items()}


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows sharded over all devices of the mesh."""
    return NamedSharding(automatic(mesh), PartitionSpec(("data", "fsdp")))


def put_batch(batch: Batch, mesh: Mesh) -> Any:
    """Puts the rows of one process on the mesh, as its part of the global batch.

    Raises:
      TypeError: for a list or tuple in place of an array.
      ValueError: for no rows, or rows that do not divide over the devices of this process.

    Example:
      >>> import jax, numpy as np, jtl
      >>> jtl.put_batch({"x": np.ones((4, 5))}, jtl.mesh(devices=jax.devices()[:1]))["x"].shape
      (4, 5)
    """
    local = len(mesh.local_devices)
    for path, leaf in flatten(batch).items():
        if isinstance(leaf, (list, tuple)):
            raise TypeError(f"batch[{path!r}] is a {type(leaf).__name__}; give an array: np.asarray(...)")
        if np.ndim(leaf) and not len(leaf):
            raise ValueError(f"batch[{path!r}] of shape {np.shape(leaf)} has no rows; leave an empty batch out")
        if np.ndim(leaf) == 0 or len(leaf) % local:
            raise ValueError(
                f"batch[{path!r}] of shape {np.shape(leaf)} does not divide over {local} devices; choose a multiple"
            )
    sharding = batch_sharding(mesh)

    def put(rows):
        if isinstance(rows, jax.Array) and sharding.is_fully_addressable:  # no detour through the host
            return jax.device_put(rows, sharding)
        return jax.make_array_from_process_local_data(sharding, np.asarray(rows))

    return jax.tree.map(put, dict(batch))


def jit_step(
    step: Step, state: State, mesh: Mesh, rules: Sequence[tuple[str, Rule]] = ((".*", replicate),)
) -> tuple[Callable[[State, Any], tuple[State, dict]], State]:
    """Compiles a step over a mesh and places the state on it.

    The state is donated: each step overwrites the previous state.

    Returns:
      The compiled step, which takes batches from `put_batch`, and the state on the mesh.

    Raises:
      ValueError: for a state that differs between processes, because its copies would diverge; for a step of several
        phases, each of which is a separate program (`jit_phases`).

    Example:
      >>> import jax, jax.numpy as jnp, jtl, optax
      >>> net = jtl.network(backbone=jtl.backbones.mlp((8,)), head=jtl.heads.linear(3))
      >>> objective, batch = jtl.finetune(net), {"x": jnp.ones((8, 5)), "y": jnp.zeros(8, int)}
      >>> step, mesh = jtl.make_step(objective, optax.sgd(0.1)), jtl.mesh(devices=jax.devices()[:1])
      >>> state = step.init(objective.init(jax.random.key(0), batch), jax.random.key(1))
      >>> run, state = jtl.jit_step(step, state, mesh)
      >>> state, metrics = run(state, jtl.put_batch(batch, mesh))
    """
    step.update  # noqa: B018  (raises for several phases)
    program, state = jit_phases(step, state, mesh, rules)
    return program(0), state


def jit_phases(
    step: Step, state: State, mesh: Mesh, rules: Sequence[tuple[str, Rule]] = ((".*", replicate),)
) -> tuple[Callable[[int], Callable[[State, Any], tuple[State, dict]]], State]:
    """`jit_step` for a step of one or several phases.

    Returns:
      `program(step)`, the jitted update of the phase that a step belongs to, the same object for the same phase; and
      the state on the mesh.
    """
    sums = checksums(flatten(state.params))
    agree(mesh, "processes begin with different parameters; give all the same key and files", sums)
    where = state_sharding(state, mesh, rules)
    whole = NamedSharding(automatic(mesh), PartitionSpec())
    jitted = {
        start: jax.jit(
            update, in_shardings=(where, batch_sharding(mesh)), out_shardings=(where, whole), donate_argnums=0
        )
        for start, update in step.phases
    }

    def program(number: int) -> Callable[[State, Any], tuple[State, dict]]:
        return jitted[max(start for start in jitted if start <= number)]

    return program, place(state, where)
