"""The one train step: any objective, any optimizer, any part of the parameters."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax

from jtl import ops, rng
from jtl.metrics import accumulate
from jtl.model import Variables, cast_floating, widened
from jtl.params import flatten, merge, select, split, unflatten
from jtl.train.microbatch import divide
from jtl.train.state import State, copied, unshared
from jtl.typing import Batch, Key, Mask, Objective


@dataclass(frozen=True)
class Step:
    """A train step as a pair of pure functions, as an optax optimizer is one.

    Calling it is `update`. It is not compiled: `jtl.train.jit_step` and `jtl.train.pmap_step` do that.

    Args:
      init: `init(variables, key) -> State`; copies its arguments, so that donating the state leaves them alive.
      update: `update(state, batch) -> (state, metrics)`; metrics are scalars, means over the global batch.
      masks: which parameters each objective trains.
    """

    init: Callable[[Variables, Key], State]
    update: Callable[[State, Batch], tuple[State, dict[str, Any]]]
    masks: tuple[Mask, ...]

    def __call__(self, state: State, batch: Batch) -> tuple[State, dict[str, Any]]:
        """One step of training."""
        return self.update(state, batch)


def make_step(
    objective: Objective | Sequence[Objective],
    tx: optax.GradientTransformation | Sequence[optax.GradientTransformation],
    *,
    trainable: Mask | Sequence[Mask] | None = None,
    microbatch: int = 1,
    dtype: Any = None,
    clip: float | None = None,
    ema: float | None = None,
) -> Step:
    """Makes the train step of an objective, or of several that take turns.

    Only the trainable leaves are differentiated and only they have optimizer state: frozen leaves come out
    bit-unchanged and their gradient is never computed. Several objectives run in order inside one program,
    each on the parameters that the one before left (alternating adversarial training).

    The loss is `Σ_terms Σ_i total_i / Σ_i count_i` over microbatches and devices i: sums over counts, so
    neither microbatches nor masks nor the number of devices change it.

    Args:
      objective: `(params, stats, batch, key, step) -> (loss, Aux)`, or a sequence of them.
      tx: one optax optimizer per objective.
      trainable: one mask per objective (`select(...)`), or one for all; None trains everything.
      microbatch: in how many parts a batch is gone through, to save memory. Batch statistics are then each
        part's own, and run on from part to part.
      dtype: compute in this dtype (`jnp.bfloat16`): parameters are cast on the way in, they and their gradients
        stay float32, and so does everything that `jtl.losses` computes.
      clip: the largest global norm of an objective's gradient; the norm before is in the metrics.
      ema: decay of a moving average of the trainable leaves, in [0, 1).

    Raises:
      ValueError: for counts of objectives, optimizers and masks that differ, or numbers out of range.
    """
    objectives, txs = _listed(objective), _listed(tx, optax.GradientTransformation)
    masks = (select(".*"),) if trainable is None else _listed(trainable)
    masks = masks * len(objectives) if len(masks) == 1 else masks
    if not len(objectives) == len(txs) == len(masks):
        raise ValueError(f"{len(objectives)} objectives, {len(txs)} optimizers, {len(masks)} masks: give one of each")
    if microbatch < 1:
        raise ValueError(f"microbatch={microbatch}: the number of parts of a batch is at least 1")
    if clip is not None and not clip > 0:
        raise ValueError(f"clip={clip}: the largest gradient norm must be positive")
    if ema is not None and not 0 <= ema < 1:
        raise ValueError(f"ema={ema}: the decay lies in [0, 1)")

    def init(variables: Variables, key: Key) -> State:
        # Without the empty parts, which do not come back from `merge`: every step gives the tree that it got.
        params, stats, key = copied((unflatten(flatten(variables.params)), variables.stats, key))
        trained = [split(params, mask)[0] for mask in masks]
        opt = tuple(t.init(part) for t, part in zip(txs, trained, strict=True))
        averages = {} if ema is None else copied(widened(_union(trained)))
        return unshared(State(jnp.zeros((), jnp.int32), params, stats, opt, key, averages))

    def update(state: State, batch: Batch) -> tuple[State, dict[str, Any]]:
        params, stats, opts, metrics, parts = state.params, state.stats, [], {}, []
        for i, (objective, tx, mask) in enumerate(zip(objectives, txs, masks, strict=True)):
            key = ops.device_key(rng.stream(state.key, f"objective{i}", state.step))
            trained, frozen = split(params, mask)
            loss = _summed(objective, frozen, state.step, dtype)
            grads, stats, terms, found = _gradient(loss, trained, stats, batch, key, microbatch)
            found = {
                "loss": accumulate.total(terms),
                **accumulate.values(terms if len(terms) > 1 else {}),
                **accumulate.values(found),
            }
            if clip is not None:
                grads, found["grad_norm"] = _clipped(grads, clip)
            updates, opt = tx.update(grads, state.opt[i], trained)
            trained: Any = optax.apply_updates(trained, updates)
            params = merge(trained, frozen)
            opts.append(opt)
            parts.append(trained)
            metrics |= found if len(objectives) == 1 else {f"{i}/{name}": value for name, value in found.items()}
        if len(objectives) > 1:
            metrics["loss"] = sum(metrics[f"{i}/loss"] for i in range(len(objectives)))
        averages: Any = state.ema
        if ema is not None:
            averages = optax.incremental_update(widened(_union(parts)), state.ema, 1 - ema)
        return State(state.step + 1, params, stats, tuple(opts), state.key, averages), metrics

    return Step(init, update, masks)


def _summed(objective: Objective, frozen: Any, step: Any, dtype: Any) -> Callable:
    """The loss with its denominators given, so that parts of a batch add up to the whole."""

    def loss(trained, stats, batch, key, counts):
        params = merge(trained, frozen)
        out, aux = objective(params if dtype is None else cast_floating(params, dtype), stats, batch, key, step)
        # Another tree, shape or type would make the state another, and every step a new program.
        chex.assert_trees_all_equal_shapes_and_dtypes(aux.stats, stats, custom_message="statistics of an objective")
        terms = accumulate.as_terms(out)
        counts = counts or {name: ops.batch_sum(jax.lax.stop_gradient(t.count)) for name, t in terms.items()}
        value = sum(accumulate.Mean(t.total, counts[name]).value for name, t in terms.items())
        return jnp.asarray(value), (aux.stats, terms, aux.metrics)

    return loss


def _gradient(loss: Callable, trained: Any, stats: Any, batch: Batch, key: Key, microbatch: int) -> tuple:
    """Gradients, new statistics, and the sums of terms and metrics, over microbatches and devices."""
    differentiate = jax.grad(loss, has_aux=True)
    if microbatch == 1:
        grads, (stats, terms, found) = differentiate(trained, stats, batch, key, None)
    else:
        parts = divide(batch, microbatch)

        def count(part):
            _, (_, terms, _) = loss(trained, stats, part, key, None)
            return {name: term.count for name, term in terms.items()}

        # Counts depend on masks alone, so XLA drops the rest of this pass: it costs no FLOPs (tested).
        counts = ops.batch_sum(jax.tree.map(lambda c: c.sum(0), jax.vmap(count)(parts)))

        def body(carry, part):
            grads, stats, i = carry
            more, (stats, terms, found) = differentiate(trained, stats, part, jax.random.fold_in(key, i), counts)
            return (jax.tree.map(jnp.add, grads, more), stats, i + 1), (terms, found)

        zeros = jax.tree.map(jnp.zeros_like, widened(trained))
        (grads, stats, _), sums = jax.lax.scan(body, (zeros, stats, jnp.zeros((), jnp.int32)), parts)
        grads = jax.tree.map(lambda g, p: g.astype(p.dtype), grads, trained)
        terms, found = jax.tree.map(lambda a: a.sum(0), sums)
    found = {name: accumulate.as_terms(value)["loss"] for name, value in found.items()}
    return ops.batch_sum(grads), stats, ops.batch_sum(terms), ops.batch_sum(found)


def _clipped(grads: Any, limit: float) -> tuple[Any, Any]:
    """The gradient at most `limit` long, and how long it was."""
    wide = widened(grads)  # float16 does not hold the square of 256
    norm = optax.tree.norm(wide)
    factor = limit / jnp.maximum(norm, limit)
    return jax.tree.map(lambda g, w: (w * factor.astype(w.dtype)).astype(g.dtype), grads, wide), norm


def _listed(given: Any, single: type | None = None) -> tuple:
    """One or several as several; an optax optimizer is itself a tuple."""
    several = isinstance(given, Sequence) and not (single and isinstance(given, single))
    return tuple(given) if several else (given,)


def _union(trees: Sequence[Any]) -> Any:
    flat: dict[str, Any] = {}
    for tree in trees:
        flat |= flatten(tree)
    return unflatten(flat)
