"""Virtual adversarial training: predictions stay where the input moves in the direction that changes them most."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jtl import ops, rng
from jtl.checked import positive, whole
from jtl.methods.adapt.own_norms import refuse_own
from jtl.methods.finetune.distillation import divergence
from jtl.methods.terms import checked, clean, row_logits, view_of, weighted
from jtl.methods.views import Views
from jtl.metrics.accumulate import mean
from jtl.model import Model, Variables
from jtl.objective import Objective
from jtl.typing import Aux, Key, Params, Schedule, Stats


def vat(
    net: Model,
    weight: float | Schedule = 1.0,
    *,
    radius: float = 3.5,
    iterations: int = 1,
    view: str = "target",
    name: str = "vat",
) -> Objective:
    """The alignment `λ mean_i KL(p(x_i) ‖ q(x_i + r_i))`, r_i the shift of norm ε that changes the prediction most.

    Gradients flow through q only, not through p and r. `perturbation` finds r. Two additional passes run this view
    alone, in training mode and with the same dropout, so the divergence is 0 at r = 0 with BatchNorm too. They do not
    change the running statistics, which move only with the pass over all views.

    VADA is `adapt(net, alignments=[dann(), entropy(), vat(net)])`, and its authors add
    `vat(net, view="source", name="vat_source")`. Their weights are 0.01, and 1 for the source's.

    Args:
      net: the network that `adapt` trains, with logits [batch, classes] and inputs that are one floating array
        [batch, ...]. Images of whole numbers become floats by `jtl.augmented(objective, lambda key, x: x / 255)`.
      weight: λ, a number or a function of the step.
      radius: ε, the Euclidean norm of the shift of a whole row in units of the network's input. VADA uses 3.5 for
        images of 32x32x3, where it is 0.06 a number.
      iterations: number of power iterations; 1 in both papers.
      view: the view whose rows are shifted.
      name: name of the term.

    Returns:
      An alignment for `adapt` with the metric `<name>_agrees`, the share of rows whose class stays the same. A step
      costs two more forward passes of the view, and one more backward pass per iteration.

    Raises:
      ValueError: for a weight, radius or iterations out of range; while tracing, for a view that is missing or in
        `own_norms`, and for inputs of another form, such as integers.
      TypeError: while tracing, for a network without forward-mode derivatives, such as one with fused attention.

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> from jtl.alignments import entropy, vat
      >>> net = jtl.network(backbone=jtl.backbones.mlp((8,)), head=jtl.heads.linear(3))
      >>> objective = jtl.adapt(net, alignments=[jtl.dann(weight=0.01), entropy(0.01), vat(net, 0.01)])
      >>> batch = {"source": {"x": jnp.zeros((4, 5)), "y": jnp.zeros(4, int)}, "target": {"x": jnp.zeros((4, 5))}}
      >>> variables = objective.init(jax.random.key(0), batch)

    Miyato et al., Virtual Adversarial Training: A Regularization Method for Supervised and Semi-Supervised Learning,
    2017, arXiv 1704.03976; for adaptation Shu et al., A DIRT-T Approach to Unsupervised Domain Adaptation, 2018,
    arXiv 1802.08735.
    """
    checked(weight, name)
    positive(radius=radius)
    whole(1, iterations=iterations)

    def run(params: Params, stats: Stats, views: Views, key: Key, step: Any) -> tuple[dict, Aux]:
        refuse_own(params, (view,), name)
        _, kept = row_logits(views, view, name)
        rows = view_of(views, view, name)
        x = ops.without_masked(_floats(rows.x, view, name), rows.mask)
        draw = rng.stream(key, name)

        def logits(params: Params, x: Array) -> Array:
            out, _ = net.apply(Variables(params, stats), x, train=True, key=draw)
            return clean(out.output, rows.mask)[0]

        held = jax.lax.stop_gradient(params)
        z, shift = perturbation(
            lambda x: logits(held, x), x, rng.stream(draw, "start"), radius=radius, iterations=iterations
        )
        # The rows that fill up a batch stay, because batch normalisation sees them.
        moved = logits(params, x + jnp.where(kept.reshape(_column(x)), shift, 0))
        terms = {name: weighted(mean(divergence(moved, z), kept), weight, step)}
        return terms, Aux(stats, {f"{name}_agrees": mean(z.argmax(1) == moved.argmax(1), kept)})

    return Objective(run)


def perturbation(
    logits: Callable[[Array], Array], x: Float[Array, "rows ..."], key: Key, *, radius: float, iterations: int = 1
) -> tuple[Float[Array, "rows classes"], Float[Array, "rows ..."]]:
    """The logits of rows, and the shift r of norm ε of each that changes them most: `r = ε d`, `d ← H d / ‖H d‖`.

    H is the Hessian of `KL(p(x) ‖ q(x + r))` at r = 0. It is `Jᵀ (diag p − p pᵀ) J`, J the Jacobian of the logits,
    because the divergence is smallest there. The papers take `H d` from a gradient at a small distance ξ. The products
    with J and Jᵀ give its limit for ξ → 0, at the same cost and without rounding. d starts in a random direction, and
    stays where `H d` is 0, as in a row whose prediction is certain in every digit.

    Args:
      logits: function from inputs of the shape of x to logits, in float32 at least.
      x: inputs.
      key: key for the initial direction.
      radius: ε.
      iterations: number of updates of d.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jtl.methods.adapt.vat import perturbation
      >>> def logits(x):  # the second input changes nothing
      ...     return jnp.stack([x[:, 0], -x[:, 0]], 1)
      >>> z, shift = perturbation(logits, jnp.ones((1, 2)), jax.random.key(0), radius=2.0)
      >>> jnp.abs(shift).tolist()
      [[2.0, 0.0]]
    """
    z, push = jax.linearize(logits, x)
    pull = jax.linear_transpose(push, x)
    p = jax.nn.softmax(z)
    top = z.argmax(1)[:, None]
    wide = jnp.promote_types(x.dtype, jnp.float32)
    d = _unit(jax.random.normal(key, x.shape, wide), jnp.zeros(x.shape, wide))
    for _ in range(iterations):
        change = push(d.astype(x.dtype))
        # From the top class: where p is nearly 1 there, Σ p v is small, and no digits of it cancel.
        change -= jnp.take_along_axis(change, top, 1)
        change = p * (change - (p * change).sum(1, keepdims=True))
        d = _unit(pull(change)[0].astype(wide), d)
    return z, (radius * d).astype(x.dtype)


def _unit(d: Array, otherwise: Array) -> Array:
    """Each row at norm 1, scaled before it is squared; rows of zeros as others."""
    axes = tuple(range(1, d.ndim))
    top = jnp.abs(d).max(axes, keepdims=True)
    some = (top > 0) & jnp.isfinite(top)
    d = jnp.where(some, d / jnp.where(some, top, 1.0), otherwise)
    length = jnp.sqrt((d**2).sum(axes, keepdims=True))
    return d / jnp.where(length > 0, length, 1.0)


def _column(x: Array) -> tuple[int, ...]:
    """The shape of one number a row, to broadcast."""
    return (len(x),) + (1,) * (x.ndim - 1)


def _floats(x: Any, of: str, who: str) -> Array:
    if len(jax.tree.leaves(x)) != 1 or not hasattr(x, "dtype"):
        found = jax.tree.map(lambda a: f"{jnp.asarray(a).dtype} {jnp.shape(a)}", x)
        raise ValueError(f"{who}: the inputs of {of!r} are a tree of {found}: it shifts one array of floats")
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(
            f"{who}: the inputs of {of!r} are {x.dtype} {x.shape}: it shifts floats, so not token ids; images become"
            " floats by jtl.augmented(objective, lambda key, x: x / 255)"
        )
    return jnp.asarray(x)
