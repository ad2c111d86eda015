"""iMAML: the gradient of a regularised inner problem's solution, independent of the path that led to it."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jtl import ops
from jtl._tracing import scope
from jtl.methods.meta import checked
from jtl.methods.meta.inner_loop import RULE, Adapt, begun, start_of
from jtl.methods.meta.inner_loop import adapt_to as unrolled
from jtl.methods.meta.update_rules import UpdateRule
from jtl.metrics import accumulate
from jtl.model import upcast
from jtl.objective import Objective, as_objective
from jtl.params import merge, select, split
from jtl.typing import Aux, Batch, Key, Mask, Params, Stats


def implicit(
    inner: Objective | Callable,
    rule: UpdateRule,
    *,
    steps: int,
    strength: float,
    solves: int,
    adapted: Mask | None = None,
) -> Adapt:
    """The solution `φ*(θ) = argmin_φ L_support(φ) + λ/2 ‖φ − θ‖²`, with the gradient `(I + H/λ)⁻¹ ∂/∂φ` for θ.

    The solution is approached by `steps` steps of an update rule from θ. The backward pass needs nothing from these
    steps: it solves a system with H, the Hessian of the support loss at φ*, by conjugate gradients. The parameters that
    are not adapted, ψ, have the gradient `−∂²L/∂ψ∂φ (H + λI)⁻¹ ∂/∂φ`. Both gradients are exact at a solution, and
    approximate if the steps end before it.

    Args:
      inner: the objective on the support set.
      rule: the update rule, such as `fixed_rate(α)` or `from_optax(...)`; its parameters get no gradient.
      steps: number of inner steps; 16 to 25 in the paper.
      strength: λ > 0; 2.0 in the paper's runs on Omniglot.
      solves: iterations of conjugate gradients; 5 in the paper. H + λI must be positive definite.
      adapted: which parameters are φ; None for all.

    Returns:
      An `Adapt`; its statistics are those of the last inner step, and get no gradient.

    Raises:
      ValueError: for steps or solves that are not integers of at least 1, or a strength that is not positive and
        finite.

    Example:
      >>> import jtl
      >>> net = jtl.network(backbone=jtl.backbones.mlp((8,)), head=jtl.heads.linear(2))
      >>> inner = jtl.finetune(net)
      >>> adapt = jtl.learners.implicit(inner, jtl.fixed_rate(0.1), steps=16, strength=2.0, solves=5)
      >>> objective = jtl.meta(adapt, inner)

    Rajeswaran et al., Meta-Learning with Implicit Gradients, 2019, arXiv 1909.04630.
    """
    checked.whole(1, steps=steps, solves=solves)
    checked.positive(strength=strength)
    inner = as_objective(inner)
    mask = select(".*") if adapted is None else adapted

    def support_loss(fast: Params, slow: Params, stats: Stats, support: Batch, key: Key, step: Any) -> Any:
        return accumulate.total(inner(merge(fast, slow), stats, support, key, step)[0])

    # Everything is an argument, because a custom derivative must not close over a key or a tracer.
    @jax.custom_vjp
    def solve(start: Params, slow: Params, phi: Any, stats: Stats, support: Batch, key: Key, step: Any) -> tuple:
        def regularised(params: Params, stats: Stats, batch: Batch, key: Key, step: Any) -> tuple[dict, Aux]:
            loss, aux = inner(params, stats, batch, key, step)
            fast, _ = split(params, mask)
            off = sum(jax.tree.leaves(jax.tree.map(lambda a, b: jnp.square(a - b).sum(), upcast(fast), start)))
            return {**accumulate.as_terms(loss), "implicit": accumulate.mean(strength / 2 * off)}, aux

        loop = unrolled(regularised, rule, steps=steps, order=1, adapted=mask)
        params, stats = loop({**merge(start, slow), **({RULE: phi} if phi else {})}, stats, support, key, step)
        return split(params, mask)[0], stats

    def forward(*args: Any) -> tuple:
        end, stats = solve(*args)
        return (end, stats), (end, *args)

    def backward(kept: tuple, slopes: tuple) -> tuple:
        end, _, slow, _, stats, support, key, step = kept
        gradient = jax.grad(support_loss)

        def along(v: Params) -> Params:
            hessian = jax.jvp(lambda p: gradient(p, slow, stats, support, key, step), (end,), (v,))[1]
            return jax.tree.map(lambda h, a: h + strength * a, hessian, v)

        # As in `over_tasks`, also if the caller of the gradient is mapped over devices or freezes modules.
        with ops.apart(), scope.nothing_frozen():
            v = conjugate_gradients(along, slopes[0], solves)
            cross = jax.vjp(lambda s: gradient(end, s, stats, support, key, step), slow)[1](v)[0]
        of_slow = jax.tree.map(lambda c: -c, cross)
        return jax.tree.map(lambda a: strength * a, v), of_slow, None, None, None, None, None

    solve.defvjp(forward, backward)

    def run(params: Params, stats: Stats, support: Batch, key: Key, step: Any) -> tuple[Params, Stats]:
        phi = params.get(RULE, {})
        given, slow = split(start_of(params), mask)
        rest = jax.tree.map(jnp.asarray, (slow, phi, stats, dict(support)))
        end, stats = solve(begun(given), *rest, key, jnp.asarray(step))
        return merge(jax.tree.map(lambda a, like: a.astype(like.dtype), end, given), slow), stats

    return Adapt(run, unrolled(inner, rule, steps=steps, adapted=adapted).init)


def conjugate_gradients(product: Any, b: Any, iterations: int) -> Any:
    """`A⁻¹ b` for a positive definite A, by a number of iterations from 0; once the residual is 0, it stays there.

    Args:
      product: `product(v) -> A v`, on trees.
      b: a tree.
      iterations: number of iterations; as many as b has entries solve the system exactly.

    Example:
      >>> import jax.numpy as jnp
      >>> from jtl.methods.meta.implicit import conjugate_gradients
      >>> conjugate_gradients(lambda v: 4 * v, jnp.array([8.0]), 3).tolist()
      [2.0]
    """

    def dot(a: Any, b: Any) -> Any:
        return sum(jax.tree.leaves(jax.tree.map(lambda x, y: (x * y).sum(), a, b)))

    def ratio(a: Any, b: Any) -> Any:
        return jnp.where(b > 0, a / jnp.where(b > 0, b, 1), 0)

    def body(carry: tuple, _: Any) -> tuple:
        x, r, p, squared = carry
        ap = product(p)
        alpha = ratio(squared, dot(p, ap))
        x = jax.tree.map(lambda a, d: a + alpha * d, x, p)
        r = jax.tree.map(lambda a, d: a - alpha * d, r, ap)
        new = dot(r, r)
        p = jax.tree.map(lambda a, d: a + ratio(new, squared) * d, r, p)
        return (x, r, p, new), None

    zeros = jax.tree.map(jnp.zeros_like, b)
    return jax.lax.scan(body, (zeros, b, b, dot(b, b)), None, length=iterations)[0][0]
