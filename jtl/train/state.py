"""The state of a run: everything that a resumed run needs."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jtl.model import Variables
from jtl.params import flatten, unflatten
from jtl.typing import Key, Params, Stats


class State(NamedTuple):
    """The state of a run, a pytree.

    Args:
      step: how many steps were taken, int32 scalar.
      params: one nested dict of all parameters, trained and frozen.
      stats: running statistics and whatever else changes without a gradient.
      opt: one optimizer state per group of parameters, for its trainable leaves alone.
      key: the root key; the keys of a step are folded from it, and it never changes.
      ema: moving averages of the trainable leaves, or the averages of a schedule-free optimizer, in float32 even for
        bfloat16 leaves; an empty dict if the run keeps none.
    """

    step: Any
    params: Params
    stats: Stats
    opt: tuple
    key: Key
    ema: Params


def copied(tree: Any) -> Any:
    """Copies every leaf to a buffer of its own: donating a state must not delete its caller's arrays."""

    def copy(leaf):
        if hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            data = jnp.array(jax.random.key_data(leaf), copy=True)
            return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
        return jnp.array(leaf, jnp.result_type(leaf), copy=True)  # a weak type would make the second step compile again

    return jax.tree.map(copy, tree)


def unshared(state: State) -> State:
    """The state with a copy of each array that occurs twice, because a buffer can be donated only once.

    Optimizers may keep one array of zeros for two sums, as L-BFGS does, or the parameters that they were given.
    """
    seen: set[int] = set()

    def once(leaf):
        again = id(leaf) in seen
        seen.add(id(leaf))
        return copied(leaf) if again else leaf

    return jax.tree.map(once, state)


def averaged(state: State) -> Params:
    """The parameters, replaced by their moving averages if the run keeps any, rounded to their types.

    `Validation` evaluates `jtl.Variables(jtl.averaged(state), state.stats)`.

    Example:
      >>> import jax, jax.numpy as jnp, jtl, optax
      >>> net = jtl.network(backbone=jtl.backbones.mlp((8,)), head=jtl.heads.linear(3))
      >>> batch = {"x": jnp.ones((8, 5)), "y": jnp.zeros(8, int)}
      >>> step = jtl.make_step(jtl.finetune(net), optax.sgd(0.1), ema=0.9)
      >>> state = step.init(net.init(jax.random.key(0), batch["x"]), jax.random.key(1))
      >>> sorted(jtl.averaged(state))
      ['backbone', 'head']
    """
    return with_averages(state.params, state.ema)


def with_averages(params: Params, averages: Params) -> Params:
    """Parameters of which some are replaced by their moving averages, rounded to their types."""
    leaves = flatten(params)
    return unflatten({**leaves, **{path: a.astype(leaves[path].dtype) for path, a in flatten(averages).items()}})


def variables(state: State) -> Variables:
    """The state's parameters and statistics, as models take them.

    With `make_step(..., ema=...)` these are the last parameters. `Validation` evaluates their moving averages:
    `jtl.Variables(jtl.averaged(state), state.stats)`.

    Example:
      >>> import jax, jax.numpy as jnp, jtl, optax
      >>> net = jtl.network(backbone=jtl.backbones.mlp((8,)), head=jtl.heads.linear(3))
      >>> batch = {"x": jnp.ones((8, 5)), "y": jnp.zeros(8, int)}
      >>> step = jtl.make_step(jtl.finetune(net), optax.sgd(0.1), ema=0.9)
      >>> state = step.init(net.init(jax.random.key(0), batch["x"]), jax.random.key(1))
      >>> jtl.predictor(net)(jtl.variables(state), batch["x"]).shape
      (8, 3)
    """
    return Variables(state.params, state.stats)


def infinite(state: State) -> list[str]:
    """The paths of the arrays of a state that hold NaN or infinity: parameters first, such as `head/out/kernel`.

    Statistics are under `stats/`, the optimizer's state under `opt/` and moving averages under `ema/`.
    """
    found = jax.device_get(_finite(state))
    bad = [path for path, finite in found.items() if not finite]
    return sorted(bad, key=lambda path: path.startswith(("stats/", "opt/", "ema/")))


@jax.jit
def _finite(state: State) -> dict[str, Any]:
    named = flatten(state.params) | {f"stats/{path}": leaf for path, leaf in flatten(state.stats).items()}
    for name, tree in (("opt", state.opt), ("ema", state.ema)):
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            named["/".join((name, *(jax.tree_util.keystr((key,), simple=True) for key in path)))] = leaf
    floats = {path: leaf for path, leaf in named.items() if jnp.issubdtype(leaf.dtype, jnp.inexact)}
    return {path: jnp.isfinite(leaf).all() for path, leaf in floats.items()}
