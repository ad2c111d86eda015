"""The inner loop of meta-learning: gradient steps on a task's support set, by an update rule."""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from jtl.methods.meta.update_rules import UpdateRule
from jtl.metrics import accumulate
from jtl.model import Variables, upcast
from jtl.objective import NONE, Objective, as_objective
from jtl.params import merge, select, split
from jtl.typing import Batch, Key, Mask, Params, Stats

RULE = "rule"
"""Where the update rule's own parameters stand, beside `backbone/` and `head/`."""


class Adapt(NamedTuple):
    """How a network adapts to a task: gradient steps, prototypes, ridge regression, anything differentiable.

    Args:
      run: `run(params, stats, support, key, step) -> (params, stats)`, for one task's support set.
      init: `init(key, support, given=Variables({}, {})) -> Variables`: `given`, and what adapting needs besides.
    """

    run: Callable[[Params, Stats, Batch, Key, Any], tuple[Params, Stats]]
    init: Callable[..., Variables]

    def __call__(self, params: Params, stats: Stats, support: Batch, key: Key, step: Any = 0) -> tuple[Params, Stats]:
        """Adapts to one task."""
        return self.run(params, stats, support, key, step)


def adapt_to(
    inner: Objective | Callable, rule: UpdateRule, *, steps: int, order: int = 2, adapted: Mask | None = None
) -> Adapt:
    """The inner loop: `θ_k = rule(φ, ∇_θ L_support(θ_{k−1}), θ_{k−1})`, k = 1 … steps.

    Use it by itself after meta-training, with as many steps as wanted, to adapt to a new task. Between the steps
    parameters are float32 (float64 where they are) whatever the objective computes in, so that small ones add up.

    Args:
      inner: any objective; it is given the support set as its batch.
      rule: `fixed_rate(α)`, `learned_rate()` or any other `UpdateRule`.
      steps: how many inner steps; with 0 the parameters come back as they are.
      order: 2 differentiates through the inner gradients, 1 takes them as constants (first-order MAML).
      adapted: which parameters the inner loop changes; None for all.

    Returns:
      An `Adapt`: `adapt(params, stats, support, key, step) -> (params, stats)`. The statistics that come back are those
      of the last pass over the support set.

    Raises:
      ValueError: for steps below 0 or an order other than 1 and 2.

    Example:
      >>> import jtl
      >>> net = jtl.network(backbone=jtl.backbones.mlp((8,)), head=jtl.heads.linear(3))
      >>> adapt = jtl.adapt_to(jtl.finetune(net), jtl.fixed_rate(0.1), steps=5, adapted=jtl.select("head/.*"))
    """
    if steps < 0:
        raise ValueError(f"steps={steps}: the inner loop takes 0 steps or more")
    if order not in (1, 2):
        raise ValueError(f"order={order}: 1 (first-order MAML) or 2")
    mask = select(".*") if adapted is None else adapted
    inner = as_objective(inner)

    def run(params: Params, stats: Stats, support: Batch, key: Key, step: Any = 0) -> tuple[Params, Stats]:
        if steps == 0:
            return {name: value for name, value in params.items() if name != RULE}, stats
        phi, rest = params.get(RULE, {}), {name: value for name, value in params.items() if name != RULE}
        given, slow = split(rest, mask)
        start = upcast(given)

        def whole(fast):
            return merge(jax.tree.map(lambda a, like: a.astype(like.dtype), fast, given), slow)

        def loss(fast, stats, key):
            value, aux = inner(whole(fast), stats, support, key, step)
            return accumulate.total(value), aux.stats

        def body(carry, k):
            fast, stats, memory = carry
            grads, stats = jax.grad(loss, has_aux=True)(fast, stats, jax.random.fold_in(key, k))
            if order == 1:
                grads = jax.lax.stop_gradient(grads)
            before, (fast, memory) = fast, rule.step(phi, grads, fast, memory)
            chex.assert_trees_all_equal_shapes_and_dtypes(fast, before, custom_message="parameters of an update rule")
            return (fast, stats, memory), None

        (fast, stats, _), _ = jax.lax.scan(body, (start, stats, rule.start(phi, start)), jnp.arange(steps))
        return whole(fast), stats

    def init(key: Key, support: Batch, given: Variables = NONE) -> Variables:
        variables = inner.init(key, support, given)
        if RULE in variables.params:
            return variables
        rest, _ = split(variables.params, mask)
        phi = rule.init(jax.random.fold_in(key, 1), rest)
        return Variables({**variables.params, **({RULE: phi} if phi else {})}, variables.stats)

    return Adapt(run, init)
