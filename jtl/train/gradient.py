"""The gradient of an objective over microbatches and devices."""

from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp

from jtl import ops
from jtl.metrics import accumulate
from jtl.model import upcast
from jtl.train.microbatch import divide
from jtl.typing import Batch, Key


def gradient(loss: Callable, trained: Any, stats: Any, batch: Batch, key: Key, microbatch: int) -> tuple:
    """Gradients, new statistics, and the sums of terms and metrics.

    Args:
      loss: `loss(trained, stats, batch, key) -> (loss, Aux)`.
      trained: the parameters to differentiate by.
      stats: the statistics before the step.
      batch: this device's rows.
      key: the key of the step.
      microbatch: the number of parts into which the batch is split.

    Returns:
      `(grads, stats, terms, metrics)`; the gradients have the types of `trained`.
    """
    differentiate = jax.grad(_summed(loss), has_aux=True)
    if microbatch == 1:
        grads, (stats, terms, found) = differentiate(trained, stats, batch, key, None)
    else:
        parts = divide(batch, microbatch)

        def count(part):
            _, (_, terms, _) = _summed(loss)(trained, stats, part, key, None)
            return {name: term.count for name, term in terms.items()}

        # Counts depend on masks alone, so XLA drops the rest of this pass: it costs no FLOPs (tested).
        counts = ops.batch_sum(jax.tree.map(lambda c: c.sum(0), jax.vmap(count)(parts)))

        def body(carry, part):
            grads, stats, i = carry
            more, (stats, terms, found) = differentiate(trained, stats, part, jax.random.fold_in(key, i), counts)
            return (jax.tree.map(jnp.add, grads, more), stats, i + 1), (terms, found)

        zeros = jax.tree.map(jnp.zeros_like, upcast(trained))
        (grads, stats, _), sums = jax.lax.scan(body, (zeros, stats, jnp.zeros((), jnp.int32)), parts)
        grads = jax.tree.map(lambda g, p: g.astype(p.dtype), grads, trained)
        terms, found = jax.tree.map(lambda a: a.sum(0), sums)
    return ops.batch_sum(grads), stats, ops.batch_sum(terms), ops.batch_sum(found)


def differentiable(value_and_grad: Callable[[Any], tuple[Any, Any]]) -> Callable[[Any], Any]:
    """The value as a function whose derivative is the gradient that is computed with it.

    Differentiated directly, a sum over devices would have each device's own derivative, and the microbatches would be
    kept in memory for the backward pass.
    """

    @jax.custom_jvp
    def value(part: Any) -> Any:
        return value_and_grad(part)[0]

    @value.defjvp
    def derivative(primals: Any, tangents: Any) -> tuple[Any, Any]:
        found, grads = value_and_grad(*primals)
        slopes = jax.tree.map(lambda g, t: jnp.vdot(g, t).astype(found.dtype), upcast(grads), upcast(tangents[0]))
        return found, sum(jax.tree.leaves(slopes), jnp.zeros_like(found))

    return value


def _summed(loss: Callable) -> Callable:
    """The loss with its denominators given, so that parts of a batch add up to the whole."""

    def summed(trained, stats, batch, key, counts):
        out, aux = loss(trained, stats, batch, key)
        # Another tree, shape or type would change the state's, and every step would be a new program.
        chex.assert_trees_all_equal_shapes_and_dtypes(aux.stats, stats, custom_message="statistics of an objective")
        terms = accumulate.as_terms(out)
        counts = counts or {name: ops.batch_sum(jax.lax.stop_gradient(t.count)) for name, t in terms.items()}
        value = sum(accumulate.Mean(t.total, counts[name]).value for name, t in terms.items())
        return jnp.asarray(value), (aux.stats, terms, accumulate.as_sums(aux.metrics))

    return summed
