"""PCGrad: gradients of several losses without their conflicting parts."""

import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jtl import ops, rng
from jtl._tracing import scope
from jtl.metrics.accumulate import Mean, as_terms
from jtl.model import upcast
from jtl.objective import Objective, as_objective
from jtl.params import merge, select, split
from jtl.typing import Aux, Batch, Key, Mask, Params, Stats


def pcgrad(objective: Objective | Callable, trainable: Mask | None = None) -> Objective:
    """The objective whose gradient is the sum of its terms' gradients, each without the parts that conflict with
    others.

    For each term i and the other terms j in random order: if `g_i·g_j < 0`, `g_i ← g_i − (g_i·g_j / ‖g_j‖²) g_j`, with
    the original g_j. The value and the metrics are those of the objective. With microbatches (`microbatch`) the
    gradients of each part are projected separately.

    Args:
      objective: an objective whose loss is a dict of at least two terms, such as that of `finetune(net, terms=...)`, of
        `adapt`, or of a loss function that returns a dict.
      trainable: the mask that is passed to the step, because the inner products are over those parameters; None for all
        parameters.

    Raises:
      ValueError: while tracing, for a loss of one term, without a key, or under `pmap`, because one device does not
        know the whole gradient of a term (use `jit_step`).

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> net = jtl.network(backbone=jtl.backbones.mlp((8,)), a=jtl.heads.linear(3), b=jtl.heads.linear(2))
      >>> both = lambda z, y: {name: jtl.losses.cross_entropy(z[name], y[name]) for name in ("a", "b")}
      >>> objective = jtl.pcgrad(jtl.finetune(net, both, metrics={}))

    Yu et al., Gradient Surgery for Multi-Task Learning, 2020, arXiv 2001.06782.
    """
    inner, mask = as_objective(objective), select(".*") if trainable is None else trainable

    def run(params: Params, stats: Stats, batch: Batch, key: Key | None, step: Any) -> tuple[Any, Aux]:
        if ops.batch_axis() is not None:
            raise ValueError("pcgrad cannot run under pmap, where one device knows its own rows alone: use jit_step")
        if key is None:
            raise ValueError("pcgrad draws the order of the terms: give a key")
        own, rest = split(params, mask)

        def means(own: Any) -> Any:
            seen = merge(own, rest)
            with scope.rounded_again(params, seen):
                loss, aux = inner(seen, stats, batch, key, step)
            terms = as_terms(loss)
            if len(terms) < 2:
                raise ValueError(f"pcgrad needs a loss of at least two terms; there is {sorted(terms)}")
            return {name: term.value for name, term in terms.items()}, (terms, aux)

        # Only `moved` below has a derivative; without the stop the projected gradients would have theirs computed.
        values, pullback, (terms, aux) = jax.vjp(means, jax.lax.stop_gradient(own), has_aux=True)
        one = [{name: jnp.ones_like(v) * (name == of) for name, v in values.items()} for of in values]
        grads = projected([pullback(at)[0] for at in one], rng.stream(key, "pcgrad"))
        loss = {}
        for (name, term), g in zip(terms.items(), grads, strict=True):
            # The value of the term, with the projected gradient in place of its own.
            count = jax.lax.stop_gradient(term.count)
            moved = jax.tree.map(lambda p, d: jnp.vdot(d, p - jax.lax.stop_gradient(p)), upcast(own), upcast(g))
            slope = functools.reduce(operator.add, jax.tree.leaves(moved))
            loss[name] = Mean(jax.lax.stop_gradient(term.total) + slope * count, count)
        return loss, jax.lax.stop_gradient(aux)

    return Objective(run, inner.init, inner.commit, inner.classes)


def projected(grads: Sequence[Any], key: Key) -> list[Any]:
    """Each gradient without the parts that conflict with the others, which are taken in a random order for each.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jtl.methods.pcgrad import projected
      >>> a, b = projected([jnp.array([1.0, 0.0]), jnp.array([-1.0, 1.0])], jax.random.key(0))
      >>> a.tolist(), b.tolist()
      ([0.5, 0.5], [0.0, 1.0])
    """
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(upcast, grads))
    n = len(grads)

    def dot(a: Any, b: Any) -> Array:
        return functools.reduce(operator.add, jax.tree.leaves(jax.tree.map(jnp.vdot, a, b)))

    def one(i: Any, own: Key) -> Any:
        order = jax.random.permutation(own, n)

        def without(k: Any, g: Any) -> Any:
            j = order[k]
            other = jax.tree.map(lambda a: a[j], stacked)
            product, square = dot(g, other), dot(other, other)
            share = jnp.where((product < 0) & (j != i), product / jnp.where(square > 0, square, 1.0), 0.0)
            return jax.tree.map(lambda a, b: a - share * b, g, other)

        return jax.lax.fori_loop(0, n, without, jax.tree.map(lambda a: a[i], stacked))

    found = jax.lax.map(lambda at: one(*at), (jnp.arange(n), jax.random.split(key, n)))
    return [jax.tree.map(lambda a, g, i=i: a[i].astype(g.dtype), found, own) for i, own in enumerate(grads)]
