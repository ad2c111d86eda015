"""How the tasks of a batch are run: in parallel, one after the other, or in chunks."""

import contextvars
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero, zero_from_primal
from jax.sharding import AxisType

from jtl import ops
from jtl._tracing import scope
from jtl.methods.views import needs
from jtl.metrics.accumulate import Mean
from jtl.model import upcast
from jtl.typing import Batch

Spread = str | int | None
"""How a device runs tasks: "vmap", all in parallel; "scan", one by one; so many at a time; None, by platform."""


def check(spread: Spread) -> None:
    """Raises if a value is not a way to spread tasks."""
    if spread is None or spread in ("vmap", "scan"):
        return
    if isinstance(spread, bool) or not isinstance(spread, int) or spread < 1:
        raise ValueError(
            f"spread={spread!r}: 'vmap' for all tasks side by side, 'scan' for one after the other, a number from 1 on"
            " for so many side by side, or None for what is fast on the platform"
        )


def sets(batch: Batch, names: Sequence[str] = ("support", "query")) -> tuple[dict[str, Any], ...]:
    """The support and the query set of a batch of tasks.

    Raises:
      ValueError: naming the first missing set, and the contents of the batch.
    """
    needs(batch, names, "an objective over tasks", "set")
    return tuple(dict(batch[name]) for name in names)


def over_tasks(task: Callable, shared: Any, batch: Batch, spread: Spread) -> tuple[dict[str, Mean], dict, Any]:
    """The means over tasks of their losses, and the results of each task.

    In a scan the gradient of each task is accumulated as soon as its loss is computed, so nothing is kept from one task
    to the next; the gradients of several devices are added once, after the scan.

    Args:
      task: `task(shared, support, query, i) -> (losses, found)` for one task and its index in the batch; losses are
        numbers by name.
      shared: everything that tasks share and with respect to which losses may be differentiated; a tree of arrays.
      batch: {"support", "query"} with a leading axis of tasks.
      spread: how the tasks run.

    Returns:
      The means; and `losses` and `found` of each task, [tasks, ...], held constant.
    """
    rows = sets(batch)
    tasks = jax.tree.leaves(rows)[0].shape[0]
    devices, platform = _devices(rows, tasks)
    if spread is None:
        spread = "scan" if platform == "cpu" else "vmap"

    def apart(*args: Any) -> Any:
        with ops.apart(), scope.nothing_frozen():
            return task(*args)

    # As JAX arrays, because a custom derivative inside the mapped function, such as iMAML's, takes no NumPy arrays.
    shared, rows = jax.tree.map(jnp.asarray, (shared, (*rows, jnp.arange(tasks))))
    at_once = tasks if spread == "vmap" else devices * (1 if spread == "scan" else int(spread))
    if tasks == 1:  # XLA's CPU backend keeps a batch dimension of one, and its batched products are slow
        each = jax.tree.map(lambda v: v[None], apart(shared, *jax.tree.map(lambda a: a[0], rows)))
        sums = _totals(each)
    elif at_once >= tasks:
        each = jax.vmap(apart, (None, 0, 0, 0))(shared, *rows)
        sums = _totals(each)
    else:
        sums, each = _scanned(apart, at_once // devices, devices)(shared, rows)
    counts = {name: jnp.full((), float(tasks), v.dtype) for name, v in sums.items()}
    losses, found = jax.lax.stop_gradient(each)
    return {name: Mean(v, counts[name]) for name, v in sums.items()}, losses, found


def means(found: dict[str, Any]) -> dict[str, Mean]:
    """One number per task, [tasks], as a mean over tasks.

    Raises:
      ValueError: for values that are not one number per task.
    """
    for name, value in found.items():
        if value.ndim > 1:
            raise ValueError(f"the metric {name!r} of a task has shape {value.shape[1:]}: give a number")
    return {n: Mean(v.sum(), jnp.full((), float(len(v)), v.dtype)) for n, v in found.items()}


def _devices(rows: Any, tasks: int) -> tuple[int, str]:
    """The number of devices that the tasks of a batch are spread over, and their platform, as known while tracing."""
    mesh = jax.typeof(jax.tree.leaves(rows)[0]).sharding.mesh
    platform = getattr(getattr(mesh, "abstract_device", None), "platform", None) or jax.default_backend()
    kinds = zip(mesh.axis_sizes, mesh.axis_types, strict=True)
    devices = math.prod(n for n, kind in kinds if kind == AxisType.Auto)  # one if each device has its own mapped rows
    return (devices if tasks % devices == 0 else 1), platform


def _scanned(task: Callable, at_once: int, devices: int) -> Callable:
    """`run(shared, rows) -> (sums of losses, (losses, found) of each)`, with `at_once` tasks in parallel per device."""

    def chunk(shared: Any, rows: Any) -> Any:
        if len(rows[2]) == 1:  # as in `over_tasks`
            return jax.tree.map(lambda v: v[None], task(shared, *jax.tree.map(lambda a: a[0], rows)))
        return jax.vmap(task, (None, 0, 0, 0))(shared, *rows)

    def through(of_chunk: Callable, rows: Any, sums: Any) -> tuple[Any, Any]:
        """Sums the first results of `of_chunk`, [devices, ...], and puts the second in order, [tasks, ...]."""
        local = len(rows[2]) // devices
        whole = local // at_once * at_once
        # As in microbatches, each device keeps its own tasks.
        wide = jax.tree.map(lambda a: a.reshape(devices, local, *a.shape[1:]), rows)

        def body(sums: Any, rows: Any) -> tuple[Any, Any]:
            if devices == 1:
                more, each = jax.tree.map(lambda v: v[None], of_chunk(jax.tree.map(lambda a: a[0], rows)))
            else:
                more, each = jax.vmap(of_chunk)(rows)
            return jax.tree.map(jnp.add, sums, more), each

        def parts(a: Any) -> Any:
            return a[:, :whole].reshape(devices, whole // at_once, at_once, *a.shape[2:]).swapaxes(0, 1)

        sums, each = jax.lax.scan(body, sums, jax.tree.map(parts, wide))
        each = jax.tree.map(lambda a: a.swapaxes(0, 1).reshape(devices, whole, *a.shape[3:]), each)
        if whole < local:
            sums, rest = body(sums, jax.tree.map(lambda a: a[:, whole:], wide))
            each = jax.tree.map(lambda a, b: jnp.concatenate([a, b], 1), each, rest)
        return sums, jax.tree.map(lambda a: a.reshape(devices * local, *a.shape[2:]), each)

    def plain(shared: Any, rows: Any) -> Any:
        each = through(lambda rows: ((), chunk(shared, rows)), rows, ())[1]
        return _totals(each), each

    def added(shared: Any, rows: Any, moves: list[int]) -> Any:
        """Each loss's gradient with respect to some leaves of `shared`, and the result of `plain`."""
        leaves, tree = jax.tree.flatten(shared)
        names = jax.eval_shape(chunk, shared, jax.tree.map(lambda a: a[:1], rows))[0]

        def of_chunk(rows: Any) -> Any:
            def value(moved: list) -> Any:
                both = list(leaves)
                for i, leaf in zip(moves, moved, strict=True):
                    both[i] = leaf
                each = chunk(jax.tree.unflatten(tree, both), rows)
                return _totals(each), each

            sums, pull, each = jax.vjp(value, [leaves[i] for i in moves], has_aux=True)
            ones = {n: {m: (jnp.ones_like if m == n else jnp.zeros_like)(v) for m, v in sums.items()} for n in sums}
            return upcast({name: pull(one)[0] for name, one in ones.items()}), each

        wide = upcast([leaves[i] for i in moves])
        zeros = {name: [jnp.zeros((devices, *leaf.shape), leaf.dtype) for leaf in wide] for name in names}
        slopes, each = through(of_chunk, rows, zeros)
        return jax.tree.map(lambda a: a.sum(0), slopes), (_totals(each), each)

    # Code that is traced later, such as the derivative of a compiled function, runs in the task's context too.
    context = contextvars.copy_context()
    run = jax.custom_jvp(plain)

    def derivative(primals: tuple, tangents: tuple) -> tuple[Any, Any]:
        (shared, rows), (of_shared, of_rows) = primals, tangents
        if any(map(_moves, jax.tree.leaves(of_rows, is_leaf=_is_zero))):
            dense = jax.tree.map(_dense, primals, tangents)
            return jax.jvp(plain, primals, dense)
        along = jax.tree.leaves(of_shared, is_leaf=_is_zero)
        moves = [i for i, t in enumerate(along) if _moves(t)]
        slopes, found = added(shared, rows, moves)

        def slope(name: str, value: Any) -> Any:
            pairs = zip(slopes[name], upcast([along[i] for i in moves]), strict=True)
            return sum((jnp.vdot(g, t) for g, t in pairs), jnp.zeros(())).astype(value.dtype)

        flat = {name: slope(name, value) for name, value in found[0].items()}
        return found, (flat, jax.tree.map(lambda v: zero_from_primal(v, symbolic_zeros=True), found[1]))

    run.defjvp(lambda *args: context.copy().run(derivative, *args), symbolic_zeros=True)
    return run


def _totals(each: tuple[dict[str, Any], Any]) -> dict[str, Any]:
    return {name: v.sum() for name, v in each[0].items()}


def _is_zero(tangent: Any) -> bool:
    return isinstance(tangent, SymbolicZero)


def _moves(tangent: Any) -> bool:
    return not _is_zero(tangent) and tangent.dtype != jax.dtypes.float0


def _dense(primal: Any, tangent: Any) -> Any:
    if not _is_zero(tangent):
        return tangent
    if jnp.issubdtype(primal.dtype, jnp.inexact):
        return jnp.zeros_like(primal)
    return np.zeros(primal.shape, jax.dtypes.float0)
