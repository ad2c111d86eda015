"""The averaged parameters at which a schedule-free run is evaluated, as the moving averages of a state."""

from typing import Any

import jax
import jax.numpy as jnp
from optax.contrib import ScheduleFreeState, schedule_free_eval_params

from jtl.model import upcast
from jtl.params import flatten, unflatten
from jtl.typing import Params


def schedule_free_averages(opt: Any, params: Params) -> Params:
    """`x = (y − (1 − β₁) z) / β₁` of the parameters y that `optax.contrib.schedule_free` trains, in float32 at least.

    Args:
      opt: the state of the optimizers; states of schedule-free optimizers may be nested at any depth.
      params: y, and the parameters of other optimizers.

    Returns:
      x for the parameters that schedule-free optimizers own; an empty dict if there are none. Before the first update x
      is bit-equal to y.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from jtl.train.schedule_free import schedule_free_averages
      >>> params = {"head": {"w": jnp.ones(2)}}
      >>> schedule_free_averages(optax.sgd(0.1).init(params), params)
      {}

    Defazio et al., The Road Less Scheduled, 2024, arXiv 2405.15682.
    """
    flat, found = flatten(params), {}
    for state in jax.tree.leaves(opt, is_leaf=_is_state):
        if _is_state(state):
            # A mask leaves holes.
            own = {path: upcast(z) for path, z in flatten(state.z).items() if hasattr(z, "dtype")}
            y = {path: upcast(flat[path]) for path in own}
            x = schedule_free_eval_params(state._replace(z=own), y)
            found |= {path: jnp.where(state.weight_sum > 0, x[path], y[path]).astype(y[path].dtype) for path in own}
    return unflatten(found)


def _is_state(node: Any) -> bool:
    return isinstance(node, ScheduleFreeState)
