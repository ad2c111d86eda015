"""A stream of unlabelled batches: predict, then adapt."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jtl import rng
from jtl.methods.adapt.test_time.norms import norms
from jtl.metrics import accumulate
from jtl.model import Variables
from jtl.objective import Objective, as_objective
from jtl.params import merge, split
from jtl.typing import Batch, Key, Mask, Params, Stats, Tree


class StreamState(NamedTuple):
    """The state of a stream.

    Args:
      variables: the current parameters and statistics.
      opt: the optimizer's state.
      start: the adapted parameters, the statistics and the optimizer's state at the start, for resets.
      step: number of batches seen.
      loss: the moving average that the guard watches; NaN before the first batch and after a reset.
      resets: how often the guard has reset the stream.
      key: the key from which all randomness is derived.
    """

    variables: Variables
    opt: Any
    start: tuple[Params, Stats, Any]
    step: Any
    loss: Any
    resets: Any
    key: Any


class Stream(NamedTuple):
    """A test-time method as pure functions.

    Args:
      init: `init(variables, key, batch) -> state`; `batch` is an example of `{"x": ..., "mask": ...}`.
      step: `step(state, batch) -> (state, logits)`; jit it. The logits [batch, classes] are those before the update.
      reset: `reset(state) -> state`, which returns to the start but keeps the counts and the key.
    """

    init: Callable[..., StreamState]
    step: Callable[[StreamState, Batch], tuple[StreamState, Any]]
    reset: Callable[[StreamState], StreamState]


def stream(
    objective: Objective | Callable,
    tx: optax.GradientTransformation,
    *,
    trainable: Mask | Tree = norms,
    after: Callable[[Key, Params, Params], Params] | None = None,
    guard: float | None = None,
    episodic: bool = False,
) -> Stream:
    """Adapts to a stream of unlabelled batches: each step predicts a batch, then takes one gradient step on it.

    For online adaptation to one shift, call `reset` when the next shift begins; continual adaptation never resets.
    `episodic` adaptation restarts at every batch and predicts after the step, because the prediction before it would be
    the source model's. A step whose gradient is not finite changes nothing.

    Args:
      objective: a test-time objective, such as `tent(net)`, whose `Aux.outputs["output"]` are the logits.
      tx: an optimizer.
      trainable: the parameters to adapt, by default those of normalisation layers; all others stay bit-equal.
      after: `after(key, params, start) -> params`, applied to the adapted parameters after each update: `restore` or
        `ensemble`.
      guard: the stream restarts if the moving average `0.9 m + 0.1 loss` falls below this value, because a model that
        assigns every row to one class with certainty has an entropy near 0. If the objective has a metric `entropy`,
        the average is over that metric; `roid` has it, because its loss is negative for certain predictions. A batch in
        which no row counts, such as one from which SAR selects no row, leaves the average unchanged. SAR uses 0.2; None
        for no guard.
      episodic: whether to restart at every batch.

    Raises:
      ValueError: while tracing, for an objective without logits, or a guard that is not positive.

    Example:
      >>> import jax, jax.numpy as jnp, jtl, optax
      >>> net = jtl.network(backbone=jtl.backbones.conv4(8), head=jtl.heads.linear(3))
      >>> batch = {"x": jnp.ones((4, 16, 16, 3))}
      >>> adapting = jtl.test_time.stream(jtl.test_time.tent(net), optax.sgd(1e-3), guard=0.2)
      >>> state = adapting.init(net.init(jax.random.key(0), batch["x"]), jax.random.key(1), batch)
      >>> state, logits = jax.jit(adapting.step)(state, batch)
      >>> logits.shape
      (4, 3)

    Wang et al., Tent: Fully Test-Time Adaptation by Entropy Minimization, 2021, arXiv 2006.10726; the guard: Niu et
    al., Towards Stable Test-Time Adaptation in Dynamic Wild World, 2023, arXiv 2302.12400.
    """
    objective = as_objective(objective)
    if guard is not None and not guard > 0:
        raise ValueError(f"guard={guard}: the loss below which the stream starts again is positive")

    def init(variables: Variables, key: Key, batch: Batch) -> StreamState:
        variables = objective.init(rng.stream(key, "init"), batch, variables)
        part, _ = split(variables.params, trainable)
        opt = tx.init(part)
        nothing, count = jnp.full((), jnp.nan, jnp.float32), jnp.zeros((), jnp.int32)
        return StreamState(variables, opt, (part, variables.stats, opt), count, nothing, count, key)

    def step(state: StreamState, batch: Batch) -> tuple[StreamState, Any]:
        if episodic:
            state = reset(state)
        part, rest = split(state.variables.params, trainable)
        key = rng.stream(state.key, "stream", state.step)

        def loss(part: Params, stats: Stats) -> tuple[Any, Any]:
            value, aux = objective(merge(part, rest), stats, batch, key, state.step)
            terms = accumulate.as_terms(value)
            if "output" not in aux.outputs:
                raise ValueError(f"a test-time objective gives the logits as output; it gives {sorted(aux.outputs)}")
            counted = jnp.all(jnp.stack([jnp.asarray(term.count > 0) for term in terms.values()]))
            total = accumulate.total(terms)
            watched = total
            if "entropy" in aux.metrics:
                watched = accumulate.total(accumulate.as_terms(aux.metrics["entropy"]))
            return total, (aux, counted, watched)

        (_, (aux, counted, watched)), grads = jax.value_and_grad(loss, has_aux=True)(part, state.variables.stats)
        updates, opt = tx.update(grads, state.opt, part)
        moved: Any = optax.apply_updates(part, updates)
        if after is not None:
            moved = after(rng.stream(key, "after"), moved, state.start[0])
        stats = objective.commit(aux.stats, merge(moved, rest))
        fine = jnp.isfinite(optax.tree.norm(grads))
        moved, stats, opt = _where(fine, (moved, stats, opt), (part, state.variables.stats, state.opt))
        average = jnp.where(jnp.isnan(state.loss), watched, 0.9 * state.loss + 0.1 * watched).astype(jnp.float32)
        new = StreamState(
            Variables(merge(moved, rest), stats),
            opt,
            state.start,
            state.step + 1,
            jnp.where(fine & counted, average, state.loss),  # without rows there is no loss, not a loss of 0
            state.resets,
            state.key,
        )
        logits = aux.outputs["output"]
        if episodic:
            logits = loss(moved, state.variables.stats)[1][0].outputs["output"]
        if guard is not None:
            low = new.loss < guard
            again = reset(new)._replace(resets=new.resets + 1)
            new = new._replace(key=None), again._replace(key=None)
            new = _where(low, new[1], new[0])._replace(key=state.key)
        return new, logits

    def reset(state: StreamState) -> StreamState:
        part, stats, opt = state.start
        _, rest = split(state.variables.params, trainable)
        nothing = jnp.full((), jnp.nan, jnp.float32)
        return state._replace(variables=Variables(merge(part, rest), stats), opt=opt, loss=nothing)

    return Stream(init, step, reset)


def restore(share: float) -> Callable[[Key, Params, Params], Params]:
    """CoTTA's stochastic restoration: in each step, each adapted number returns to its start with a given probability.

    Args:
      share: the probability, in [0, 1].

    Raises:
      ValueError: for a share that is not a probability.

    Example:
      >>> import jtl
      >>> after = jtl.test_time.restore(0.01)

    Wang et al., Continual Test-Time Domain Adaptation, 2022, arXiv 2203.13591.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share={share}: a probability lies in [0, 1]")

    def after(key: Key, params: Params, start: Params) -> Params:
        leaves, tree = jax.tree.flatten(params)
        keys = jax.tree.unflatten(tree, list(jax.random.split(key, max(len(leaves), 1)))[: len(leaves)])
        return jax.tree.map(
            lambda k, p, s: jnp.where(jax.random.bernoulli(k, share, p.shape), s, p), keys, params, start
        )

    return after


def ensemble(momentum: float = 0.99) -> Callable[[Key, Params, Params], Params]:
    """ROID's weight ensembling: `θ ← m θ + (1 − m) θ_0` after each update, with θ_0 the parameters at the start.

    Args:
      momentum: m, in [0, 1].

    Raises:
      ValueError: for a momentum outside [0, 1].

    Example:
      >>> import jtl
      >>> after = jtl.test_time.ensemble(0.99)

    Marsden et al., Universal Test-time Adaptation through Weight Ensembling, Diversity Weighting, and Prior Correction,
    2024, arXiv 2306.00650.
    """
    if not 0 <= momentum <= 1:
        raise ValueError(f"momentum={momentum}: it lies in [0, 1]")

    def after(key: Key, params: Params, start: Params) -> Params:
        del key
        return jax.tree.map(lambda p, s: momentum * p + (1 - momentum) * s, params, start)

    return after


def _where(condition: Any, a: Any, b: Any) -> Any:
    return jax.tree.map(lambda x, y: jnp.where(condition, x, y), a, b)
