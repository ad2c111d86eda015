"""SDAT: some terms of an objective, such as the source's loss, are minimised where they are sharpest nearby."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from jtl import checked, ops
from jtl._tracing import scope
from jtl.metrics.accumulate import Mean, as_terms
from jtl.model import upcast
from jtl.objective import Objective, as_objective
from jtl.params import flatten, merge, select, split, unflatten
from jtl.typing import Aux, Batch, Key, Mask, Params, Stats


def sdat(
    objective: Objective | Callable,
    radius: float = 0.05,
    *,
    terms: Sequence[str] = ("source",),
    together: bool = False,
    trainable: Mask | None = None,
) -> Objective:
    """The objective `T(θ + ε̂) + R(θ)`, `ε̂ = ρ ∇T(θ) / ‖∇T(θ)‖`, of an objective `T(θ) + R(θ)`.

    T is the sum of some of its terms and R that of all others. The first is the loss of a task, which should have a
    flat minimum; the second is adversarial, and a flat one of it hurts. ε̂ is held constant. With all terms in T this is
    sharpness-aware minimisation (SAM), for which `make_step` also takes `optax.contrib.sam`.

    Statistics, metrics and outputs are those at θ, and random draws are the same at both. There are three passes
    backward in place of one, and two with `together`. With microbatches each part has its own ε̂.

    Args:
      objective: such as that of `adapt`, or a loss function that returns a dict of terms.
      radius: ρ. The default is that of the authors' code; they take 0.02 for Office-Home.
      terms: the names of the terms of T; a name stands for those below it too, `source` for `source/first`. An
        objective with a single term has "loss".
      together: take R at θ + ε̂ too, `T(θ + ε̂) + R(θ + ε̂)`, as in the authors' code; ε̂ is still that of T.
      trainable: the mask that is passed to the step, because ε̂ moves those parameters alone; None for all parameters.

    Returns:
      An objective with the same terms, those of T at θ + ε̂, and with the metric `<term>_sharpness` for each of them:
      how much larger it is there than at θ.

    Raises:
      ValueError: for a radius that is not positive and finite, or no names; while tracing, for a name that no term has,
        or parameters of whole numbers, as quantised ones, that `trainable` does not leave out.

    Example:
      >>> import jtl
      >>> net = jtl.network(backbone=jtl.backbones.mlp((8,)), head=jtl.heads.linear(3))
      >>> objective = jtl.alignments.sdat(jtl.adapt(net, alignments=[jtl.alignments.cdan()]), radius=0.02)

    Rangwani et al., A Closer Look at Smoothness in Domain Adversarial Training, 2022, arXiv 2206.08213.
    """
    checked.positive(radius=radius)
    if isinstance(terms, str) or not terms:
        raise ValueError(f"sdat: terms={terms!r}: give one or several names, such as ('source',)")
    inner, mask = as_objective(objective), select(".*") if trainable is None else trainable

    def run(params: Params, stats: Stats, batch: Batch, key: Key | None, step: Any) -> tuple[Any, Aux]:
        own, rest = split(params, mask)
        whole = [path for path, a in flatten(own).items() if not jnp.issubdtype(a.dtype, jnp.inexact)]
        if whole:
            raise ValueError(f"sdat: {whole[0]!r} has whole numbers and no gradient; give the step's mask, trainable=")

        def at(own: Params) -> tuple[dict[str, Mean], Aux]:
            seen = merge(own, rest)
            with scope.rounded_again(params, seen):
                loss, aux = inner(seen, stats, batch, key, step)
            return as_terms(loss), aux

        def share(own: Params) -> tuple[Array, tuple[dict[str, Mean], Aux]]:
            found, aux = at(own)
            # This device's share of each mean; gradients are summed over devices, so they are exact under pmap too.
            parts = [m.total / jnp.maximum(ops.batch_sum(m.count), 1e-30) for m in _of(found, terms).values()]
            return jnp.asarray(sum(parts)), (found, aux)

        grads, (here, aux) = jax.grad(share, has_aux=True)(jax.lax.stop_gradient(own))
        if not together:
            here, aux = at(own)
        steps = climb(upcast(ops.batch_sum(jax.lax.stop_gradient(grads))), radius)
        wide, low = _moved(params, steps)
        with scope.rounded(wide, low):
            loss, _ = inner(low, stats, batch, key, step)
        there = as_terms(loss)
        sharp = _of(there, terms)
        rises = {f"{n}_sharpness": Mean(m.total - here[n].total, m.count) for n, m in sharp.items()}
        return {**here, **(there if together else sharp)}, aux._replace(metrics={**aux.metrics, **rises})

    return dataclasses.replace(inner, loss=run)


def climb(grads: Any, radius: float) -> Any:
    """`ρ g / ‖g‖` of a tree, with the norm over all of its arrays; 0 where g is 0.

    Example:
      >>> import jax.numpy as jnp
      >>> from jtl.methods.adapt.sdat import climb
      >>> found = climb({"a": jnp.array([3.0]), "b": jnp.array([4.0])}, 0.5)
      >>> [round(float(part[0]), 4) for part in found.values()]
      [0.3, 0.4]
    """
    norm: Float[Array, ""] = optax.tree.norm(grads)
    return jax.tree.map(lambda g: radius * g / jnp.maximum(norm, 1e-12).astype(g.dtype), grads)


def _moved(params: Params, by: Params) -> tuple[Params, Params]:
    """The moved parameters in full precision, because a small step is lost in 8 bits, and in that of `params`."""
    full, steps = flatten(scope.unrounded(params)), flatten(by)
    wide = {path: (a + steps[path]).astype(a.dtype) if path in steps else a for path, a in full.items()}
    low = {path: wide[path].astype(a.dtype) if path in steps else a for path, a in flatten(params).items()}
    return unflatten(wide), unflatten(low)


def _of(found: dict[str, Mean], names: Sequence[str]) -> dict[str, Mean]:
    """The terms of these names, and those below them."""
    for name in names:
        if not any(term == name or term.startswith(f"{name}/") for term in found):
            raise ValueError(f"sdat: terms={tuple(names)}: the objective has no term {name!r}, only {sorted(found)}")
    return {term: m for term, m in found.items() if any(term == n or term.startswith(f"{n}/") for n in names)}
