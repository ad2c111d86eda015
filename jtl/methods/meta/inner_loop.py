"""The inner loop of meta-learning: gradient steps on a task's support set, by an update rule."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from jtl.methods.meta import checked
from jtl.methods.meta.update_rules import UpdateRule
from jtl.metrics import accumulate
from jtl.model import Variables, upcast
from jtl.objective import NONE, Objective, as_objective
from jtl.params import flatten, merge, select, split, unflatten
from jtl.typing import Batch, Key, Mask, Params, Stats

RULE = "rule"
"""The name, next to `backbone/` and `head/`, of the adaptation's own parameters, such as those of an update rule."""
STEPS = "per_step"
"""The name of parameters that have one value per inner step, [steps, ...], kept under their own paths."""
MEMORY = "inner"
"""The name, in the statistics, of an update rule's memory that is kept across tasks."""

RULED_OUT = -1e9
"""Replaces, in inner steps, the bias −∞ of a class that a closed form rules out. Steps may decay, square or compare
biases, and −∞ − (−∞) is NaN; with this bias the probability is exactly 0 too."""


class Adapt(NamedTuple):
    """How a network adapts to a task: gradient steps, prototypes, ridge regression, anything differentiable.

    Args:
      run: `run(params, stats, support, key, step) -> (params, stats)`, for one task's support set.
      init: `init(key, support, given=Variables({}, {})) -> Variables`: `given`, and whatever else adapting needs.
      each: `each(params, stats, support, key, step, judge, begin=False) -> (params, stats, found)`; like `run`, but it
        also returns the stacked results of `judge(params, stats)` after each inner step. With `begin` there is also a
        result before the first step, with the statistics of a pass over the support set. The parameters are returned in
        the precision in which steps accumulate. None if there are no steps.
    """

    run: Callable[[Params, Stats, Batch, Key, Any], tuple[Params, Stats]]
    init: Callable[..., Variables]
    each: Callable[..., tuple[Params, Stats, Any]] | None = None

    def __call__(self, params: Params, stats: Stats, support: Batch, key: Key, step: Any = 0) -> tuple[Params, Stats]:
        """Adapts to one task."""
        return self.run(params, stats, support, key, step)


def adapt_to(
    inner: Objective | Callable,
    rule: UpdateRule,
    *,
    steps: int,
    order: int = 2,
    adapted: Mask | None = None,
    per_step: Mask | None = None,
    across_tasks: bool = False,
    remat: bool = False,
) -> Adapt:
    """The inner loop: `θ_k = rule(φ, ∇_θ L_support(θ_{k−1}), θ_{k−1})`, k = 1 … steps.

    After meta-training, use it by itself to adapt to a new task, with any number of steps. Between steps, parameters
    are kept in float32 (float64 if they are float64) whatever the objective computes in, so that small updates
    accumulate.

    A pattern selects what the inner loop adapts: all parameters (MAML), `select("head/.*")` (ANIL),
    `select("backbone/.*")` (BOIL), or only adapters. All other parameters are held constant in the inner loop and
    trained in the outer loop.

    Args:
      inner: any objective; its batch is the support set.
      rule: `fixed_rate(α)`, `learned_rate()` or any other `UpdateRule`.
      steps: number of inner steps; with 0 the parameters are returned unchanged.
      order: 2 differentiates through the inner gradients, 1 holds them constant (first-order MAML).
      adapted: which parameters the inner loop changes; None for all.
      per_step: which parameters have one value per inner step, learned by the outer loop and not adapted, such as
        `select(".*/norm/.*")` in MAML++. Pass k and the judgement after it use the k-th value; later passes use the
        last value. None for no parameters.
      across_tasks: start the rule's memory, such as Adam's moments, from where the previous task left it; the memory is
        kept in the statistics under `inner`. It is for `reptile`, which runs tasks in order; `meta` leaves the memory
        unchanged.
      remat: keep only the parameters of each inner step for the backward pass, and recompute the rest there: less
        memory with many steps, at the cost of another forward and backward pass for each.

    Returns:
      An `Adapt`: `adapt(params, stats, support, key, step) -> (params, stats)`. The returned statistics are those of
      the last pass over the support set.

    Raises:
      ValueError: for steps that are not an integer of at least 0, an order other than 1 and 2, or per-step parameters
        without steps; at init, for `across_tasks` with a rule that has no memory; when called, for `per_step` or
        `across_tasks` with variables that did not come from `init`.

    Example:
      >>> import jtl
      >>> net = jtl.network(backbone=jtl.backbones.mlp((8,)), head=jtl.heads.linear(3))
      >>> adapt = jtl.adapt_to(jtl.finetune(net), jtl.fixed_rate(0.1), steps=5, adapted=jtl.select("head/.*"))

    Finn et al., Model-Agnostic Meta-Learning, 2017, arXiv 1703.03400; Raghu et al., Rapid Learning or Feature Reuse?
    (ANIL), 2019, arXiv 1909.09157; Oh et al., BOIL, 2020, arXiv 2008.08882.
    """
    checked.whole(0, steps=steps)
    if order not in (1, 2):
        raise ValueError(f"order={order}: 1 (first-order MAML) or 2")
    if per_step is not None and steps == 0:
        raise ValueError("steps=0 with per_step: there is no inner step for parameters to belong to")
    mask = select(".*") if adapted is None else adapted
    inner = as_objective(inner)

    def each(
        params: Params, stats: Stats, support: Batch, key: Key, step: Any, judge: Callable, begin: bool = False
    ) -> tuple:
        phi, layers = params.get(RULE, {}), params.get(STEPS, {})
        if per_step is not None and not layers:
            raise ValueError(
                f"per_step is given, but the parameters {sorted(params)} hold no {STEPS!r}: use the variables that"
                " adapt.init makes of these, or they would be adapted"
            )
        given, slow = split(_without(params), mask)
        start = begun(given)
        memory, stats = _memory(rule, phi, start, stats) if across_tasks else (rule.start(phi, start), stats)

        def around(fast, k):
            own = jax.tree.map(lambda a: a[jnp.minimum(k, len(a) - 1)], layers)
            return merge(merge(fast, slow), own)

        def whole(fast, k):
            return around(jax.tree.map(lambda a, like: a.astype(like.dtype), fast, given), k)

        def loss(fast, stats, key, k):
            value, aux = inner(whole(fast, k), stats, support, key, step)
            return accumulate.total(value), aux.stats

        def slopes(fast, stats, key, k):
            (value, stats), grads = jax.value_and_grad(loss, has_aux=True)(fast, stats, key, k)
            # A loss may be NaN with a finite gradient, as for a label that is not a class, and would go unnoticed.
            # One leaf suffices to carry the NaN into all that the network computes; the smallest costs least.
            leaves, tree = jax.tree.flatten(grads)
            least = min(range(len(leaves)), key=lambda i: leaves[i].size)
            leaves[least] = jnp.where(jnp.isnan(value), jnp.nan, leaves[least])
            return jax.tree.unflatten(tree, leaves), stats

        def body(carry, k):
            fast, stats, memory = carry
            grads, stats = slopes(fast, stats, jax.random.fold_in(key, k), k)
            if order == 1:
                grads = jax.lax.stop_gradient(grads)
            before, made = fast, rule.step(phi, grads, fast, memory)
            if not (isinstance(made, tuple) and len(made) == 2):
                raise TypeError(f"the step of an update rule returned {type(made).__name__}: give (params, memory)")
            fast, memory = made
            chex.assert_trees_all_equal_shapes_and_dtypes(fast, before, custom_message="parameters of an update rule")
            return (fast, stats, memory), judge(whole(fast, k), stats)

        first = judge(whole(start, 0), loss(start, stats, jax.random.fold_in(key, 0), 0)[1]) if begin else None
        taken = jax.checkpoint(body, prevent_cse=False) if remat else body  # not needed inside a scan
        (fast, stats, memory), found = jax.lax.scan(taken, (start, stats, memory), jnp.arange(steps))
        if begin:
            found = jax.tree.map(lambda a, rest: jnp.concatenate([a[None], rest]), first, found)
        kept = {**stats, MEMORY: _named(memory)} if across_tasks else stats
        return around(fast, steps - 1), kept, found

    def run(params: Params, stats: Stats, support: Batch, key: Key, step: Any = 0) -> tuple[Params, Stats]:
        if steps == 0:
            return start_of(params), stats
        end, stats, _ = each(params, stats, support, key, step, lambda params, stats: ())
        return jax.tree.map(lambda a, like: a.astype(like.dtype), end, start_of(params)), stats

    def init(key: Key, support: Batch, given: Variables = NONE) -> Variables:
        variables = inner.init(key, support, Variables(_without(given.params), given.stats))
        rest, own = _without(variables.params), own_of(given.params)
        if per_step is not None:
            chosen, rest = split(rest, per_step)
            own.setdefault(STEPS, jax.tree.map(lambda a: jnp.broadcast_to(a, (steps, *a.shape)), chosen))
        fast, _ = split(rest, mask)
        if RULE not in own and (phi := rule.init(jax.random.fold_in(key, 1), fast)):
            own[RULE] = phi
        stats = variables.stats
        if across_tasks and MEMORY not in stats:
            memory = _named(rule.start(own.get(RULE, {}), upcast(fast)))
            if not memory:
                raise ValueError("across_tasks=True, but this update rule has no memory to keep: leave it False")
            stats = {**stats, MEMORY: memory}
        return Variables({**rest, **own}, stats)

    return Adapt(run, init, each if steps else None)


def with_numbers(make: Callable[..., Variables], numbers: Mapping[str, float]) -> Callable[..., Variables]:
    """The `init` of an `Adapt` whose rule is numbers that the outer loop learns, float32, unless they are given."""

    def init(key: Key, support: Batch, given: Variables = NONE) -> Variables:
        made = make(key, support, given)
        if RULE in made.params:
            return made
        return Variables({**made.params, RULE: {n: jnp.float32(a) for n, a in numbers.items()}}, made.stats)

    return init


def begun(given: Params) -> Params:
    """The parameters at the start of the inner steps: in full precision, and with `RULED_OUT` for a bias of −∞."""

    def finite(a: Any) -> Any:
        # Only biases, because a pass over the kernels of each task would cost 5 % of a step.
        return jnp.where(a == -jnp.inf, RULED_OUT, a) if a.ndim == 1 else a

    return jax.tree.map(finite, upcast(given))


def start_of(params: Params) -> Params:
    """The network's parameters before the first inner step, without the adaptation's own parameters."""
    return merge(_without(params), jax.tree.map(lambda a: a[0], params.get(STEPS, {})))


def own_of(params: Params) -> Params:
    """The adaptation's own parameters."""
    return {name: params[name] for name in (RULE, STEPS) if name in params}


def with_own(params: Params, own: Params) -> Params:
    """A network's parameters and the adaptation's own; per-step parameters replace those of the same path."""
    taken = flatten(own.get(STEPS, {}))
    return {**unflatten({path: a for path, a in flatten(params).items() if path not in taken}), **own}


def _without(params: Params) -> Params:
    return {name: value for name, value in params.items() if name not in (RULE, STEPS)}


def _memory(rule: UpdateRule, phi: Any, start: Params, stats: Stats) -> tuple[Any, Stats]:
    """The memory that the previous task left, and the statistics without it."""
    if MEMORY not in stats:
        raise ValueError(f"across_tasks=True, but the statistics {sorted(stats)} hold no {MEMORY!r}: use adapt.init")
    fresh = rule.start(phi, start)
    leaves = [stats[MEMORY][name] for name in _named(fresh)]
    return jax.tree.unflatten(jax.tree.structure(fresh), leaves), {n: v for n, v in stats.items() if n != MEMORY}


def _named(memory: Any) -> dict[str, Any]:
    """Any tree as a dict with keys like `0.mu.head.out.kernel`, because statistics are nested dicts."""
    paths = jax.tree_util.tree_flatten_with_path(memory)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in paths}
