"""L2-SP: weight decay towards the pretrained parameters instead of towards zero."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from jtl._tracing import scope
from jtl.methods.terms import at_step, checked, with_own
from jtl.methods.views import Views
from jtl.model import Variables
from jtl.objective import NONE, Objective
from jtl.params import flatten, unflatten
from jtl.typing import Aux, Key, Params, Schedule, Stats


def l2_sp(weight: float | Schedule, *, head: float | Schedule = 0.0, name: str = "l2_sp") -> Objective:
    """The term `α/2 ‖w − w⁰‖²` on the backbone plus `β/2 ‖w‖²` on everything else.

    The starting point w⁰ is the backbone's parameters at `init`, so pass the loaded parameters to `init`. It is kept in
    the statistics under `name`. With `make_step(dtype=)` the term uses the parameters before the cast. Turn off the
    optimizer's weight decay, because it would additionally pull towards zero.

    Args:
      weight: α, a number or a function of the step; the paper searches from .001 to .1.
      head: β, for the parameters outside `backbone/`, a number or a function of the step.
      name: name of the term.

    Returns:
      A term for `finetune(net, loss, terms)` or an alignment for `adapt`.

    Raises:
      ValueError: for a weight that is negative or not finite; at init, if there is no backbone, or if `name` is taken.

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> net = jtl.network(backbone=jtl.backbones.mlp((8,)), head=jtl.heads.linear(3))
      >>> objective = jtl.finetune(net, terms=[jtl.finetuning.l2_sp(0.1, head=0.01)])
      >>> batch = {"x": jnp.zeros((4, 5)), "y": jnp.zeros(4, int)}
      >>> variables = objective.init(jax.random.key(0), batch)
      >>> loss, _ = objective(variables.params, variables.stats, batch, jax.random.key(1), 0)
      >>> sorted(loss)
      ['l2_sp', 'supervised']

    Li et al., Explicit Inductive Bias for Transfer Learning with Convolutional Networks, 2018, arXiv 1802.01483.
    """
    checked(weight, name)
    checked(head, name, "head")

    def run(params: Params, stats: Stats, views: Views, key: Key | None, step: Any) -> tuple[Any, Aux]:
        del views, key
        start = flatten(stats[name])
        # If rounded by `make_step(dtype=)`, w would often equal w⁰ after small steps.
        flat = flatten(scope.unrounded(params))
        # If w itself has half precision, w⁰ is rounded likewise, so that the term is 0 at the start.
        moved = [_squared(w, start[path].astype(w.dtype)) for path, w in flat.items() if path in start]
        rest = [_squared(w, jnp.zeros_like(w)) for path, w in flat.items() if path not in start]
        return {name: 0.5 * (at_step(weight, step) * sum(moved) + at_step(head, step) * sum(rest))}, Aux(stats)

    def init(key: Key, views: Views, given: Variables = NONE) -> Variables:
        del key, views
        start = {path: w for path, w in flatten(given.params).items() if path.startswith("backbone/")}
        if not start:
            raise ValueError(f"l2_sp: no parameters under 'backbone/'; there are {sorted(given.params)}")
        return with_own(given, name, unflatten(start))

    return Objective(run, init)


def _squared(a: Array, b: Array) -> Array:
    wide = jnp.promote_types(a.dtype, jnp.float32)
    return ((a.astype(wide) - b.astype(wide)) ** 2).sum()
