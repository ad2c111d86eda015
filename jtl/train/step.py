"""The one train step: for any objective, any optimizer and any part of the parameters."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax

from jtl import ops, rng
from jtl._tracing import scope
from jtl.metrics import accumulate
from jtl.model import Variables, cast_floating, upcast
from jtl.objective import Objective, as_objective
from jtl.optim import extra_of
from jtl.params import flatten, merge, split, unflatten
from jtl.train import options
from jtl.train.gradient import differentiable, gradient
from jtl.train.schedule_free import schedule_free_averages
from jtl.train.state import State, copied, unshared
from jtl.train.turns import Phase, Turn, as_phases, groups_of, owners
from jtl.typing import Batch, Key, Mask, Params

Update = Callable[[State, Batch], tuple[State, dict[str, Any]]]


@dataclass(frozen=True)
class Step:
    """A train step as a pair of pure functions, in the form of an optax optimizer.

    Calling it is `update`. It is not compiled: `jtl.train.jit_step` and `jtl.train.pmap_step` do that.

    Args:
      init: `init(variables, key) -> State`; copies its arguments, so that donating the state leaves them alive.
      phases: the first step of each phase, and its `update(state, batch) -> (state, metrics)`. Metrics are over the
        global batch; their names are those of the phase.
      masks: the mask of the parameters that each group's optimizer owns.
      classes: the class names of each objective that knows them, in the order of the labels; `jtl.fit` refuses data
        whose labels mean other classes.
    """

    init: Callable[[Variables, Key], State]
    phases: tuple[tuple[int, Update], ...]
    masks: tuple[Mask, ...]
    classes: tuple[tuple[str, ...], ...] = ()

    def at(self, step: int) -> Update:
        """The update of the phase that a step belongs to; the host chooses it, so each phase is a separate program."""
        return next(update for start, update in reversed(self.phases) if step >= start)

    @property
    def update(self) -> Update:
        """The only phase's update.

        Raises:
          ValueError: if there are several phases.
        """
        if len(self.phases) > 1:
            starts = [start for start, _ in self.phases]
            raise ValueError(f"this step has phases from {starts} on: take step.at(number), as jtl.fit does")
        return next(update for _, update in self.phases)

    def __call__(self, state: State, batch: Batch) -> tuple[State, dict[str, Any]]:
        """One step of training."""
        return self.update(state, batch)

    def trains(self, params: Params) -> dict[str, bool]:
        """Whether any phase trains a parameter, by path."""
        own = owners(params, self.masks)
        return {path: path in own for path in flatten(params)}


def make_step(
    objective: Objective | Callable | Turn | Sequence[Objective | Callable | Turn] | Sequence[Phase],
    tx: Any,
    *,
    trainable: Mask | Sequence[Mask] | None = None,
    microbatch: int = 1,
    dtype: Any = None,
    clip: float | None = None,
    ema: float | None = None,
    frozen: str = "evaluation",
) -> Step:
    """Makes the train step of an objective, or of several that take turns.

    Only the trainable leaves are differentiated and only they have optimizer state: frozen leaves come out
    bit-unchanged and their gradient is never computed. A module of which no parameter is trained runs in evaluation
    mode, so that its running statistics stay too. Turns run in order inside one program, each on the parameters that
    the previous one left (alternating adversarial training). After the last turn each objective's `commit` is called
    once, on parameters of full precision.

    The loss is `Σ_terms Σ_i total_i / Σ_i count_i` over microbatches and devices i: sums over counts, so
    neither microbatches nor masks nor the number of devices change it.

    Args:
      objective: an objective, `Turn`s, or `Phase`s of them. The objectives of a sequence take turns, each with its own
        optimizer.
      tx: an optimizer, or one for each group of parameters. Optimizers that take `value`, `grad`, `value_fn` or
        `grad_fn`, such as `optax.lbfgs` and `optax.contrib.sam(..., opaque_mode=True)`, are given them. These functions
        use the same batch and key, do not change statistics, and cast float32 parameters to `dtype`.
      trainable: disjoint masks of the parameters of each optimizer (`select(...)`); None for all, with one optimizer.
      microbatch: the number of parts into which a batch is split, to save memory. Batch statistics are then
        those of each part, and running statistics move once per part.
      dtype: the dtype to compute in (`jnp.bfloat16`): parameters are cast to it in the forward pass; they and their
        gradients stay float32, and so does everything that `jtl.losses` computes.
      clip: the global norm to which each turn's gradient is clipped; the norm before clipping is in the metrics.
      ema: decay of a moving average of the trainable leaves, in [0, 1). None for no average, except that for a
        schedule-free optimizer (`optax.contrib.schedule_free`) the state keeps the averages x at which it is evaluated.
      frozen: "evaluation", or "training" if frozen modules should run as in training: BatchNorm then normalises by the
        batch and its running statistics move, and dropout is on. Parameters that another phase trains are frozen. It
        has no effect on objectives over tasks (`jtl.meta`), which adapt again after training: see there.

    Raises:
      ValueError: for different numbers of objectives, optimizers and masks, numbers out of range, or a dtype that is
        not floating or needs `jax_enable_x64`; at `init`, for masks that overlap, masks of which none selects a
        parameter, or variables without parameters.
      TypeError: for an argument that is not an objective, optimizer, mask or number.

    Example:
      >>> import jax, jax.numpy as jnp, jtl, optax
      >>> net = jtl.network(backbone=jtl.backbones.mlp((8,)), head=jtl.heads.linear(3))
      >>> objective, batch = jtl.finetune(net), {"x": jnp.ones((4, 5)), "y": jnp.zeros(4, int)}
      >>> step = jtl.make_step(objective, optax.adam(1e-3), trainable=jtl.select("head/.*"))
      >>> state = step.init(objective.init(jax.random.key(0), batch), jax.random.key(1))
      >>> state, metrics = jax.jit(step)(state, batch)
      >>> sorted(metrics), int(state.step)
      (['accuracy', 'loss'], 1)
    """
    options.of_step(microbatch, dtype, clip, ema, frozen)
    txs, masks = groups_of(tx, trainable)
    phases = as_phases(objective, len(txs))

    def init(variables: Any, key: Any) -> State:
        _check(variables, key)
        # Without empty dicts, which `merge` drops: every step must return the tree that it was given.
        params, stats, key = copied((unflatten(flatten(variables.params)), variables.stats, key))
        if not owners(params, masks):
            raise ValueError(
                f"trainable selects none of {len(flatten(params))} parameters, so nothing would be trained: give"
                " jtl.select(...), whose patterns must match"
            )
        trained = [split(params, mask)[0] for mask in masks]
        opt = tuple(t.init(part) for t, part in zip(txs, trained, strict=True))
        averages = copied(schedule_free_averages(opt, params) if ema is None else upcast(_union(trained)))
        return unshared(State(jnp.zeros((), jnp.int32), params, stats, opt, key, averages))

    def updater(turns: tuple[Turn, ...]) -> Update:
        by = sorted({i for turn in turns for i in turn.by})

        def update(state: State, batch: Batch) -> tuple[State, dict[str, Any]]:
            params, stats, opt, metrics = state.params, state.stats, state.opt, {}
            own = owners(params, [masks[i] for i in by])
            trains = {path: path in own for path in flatten(params)} if frozen == "evaluation" else {}
            for i, turn in enumerate(turns):
                key = ops.device_key(rng.stream(state.key, f"objective{i}", state.step))
                run = _taker(turn, txs, masks, batch, state.step, microbatch=microbatch, dtype=dtype, clip=clip)
                with scope.training(trains):
                    params, stats, opt, found = _repeated(run, params, stats, opt, key, turn.repeat)
                name = turn.name or str(i)
                metrics |= found if len(turns) == 1 else {f"{name}/{n}": value for n, value in found.items()}
            if len(turns) > 1:
                metrics["loss"] = sum(metrics[f"{turn.name or i}/loss"] for i, turn in enumerate(turns))
            for turn in turns:
                stats = _committed(turn.objective, stats, params)
            averages: Any
            if ema is None:
                averages = schedule_free_averages(opt, params)
            else:
                trained = _union([split(params, mask)[0] for mask in masks])
                averages = optax.incremental_update(upcast(trained), state.ema, 1 - ema)
            return State(state.step + 1, params, stats, opt, state.key, averages), metrics

        return update

    known = dict.fromkeys(as_objective(turn.objective).classes for _, turns in phases for turn in turns)
    classes = tuple(tuple(names) for names in known if names is not None)
    return Step(init, tuple((start, updater(turns)) for start, turns in phases), masks, classes)


def _taker(
    turn: Turn, txs: tuple, masks: tuple, batch: Batch, step: Any, *, microbatch: int, dtype: Any, clip: float | None
) -> Callable:
    """`take(params, stats, opt, key) -> (params, stats, opt, metrics)`: one gradient step of a turn."""

    def take(params: Params, stats: Any, opt: tuple, key: Key) -> tuple[Params, Any, tuple, dict[str, Any]]:
        groups = [split(params, masks[i])[0] for i in turn.by]
        trained = _union(groups)
        frozen = _without(params, trained)

        def loss(trained, stats, batch, key):
            whole = merge(trained, frozen)
            if dtype is None:
                return turn.objective(whole, stats, batch, key, step)
            low = cast_floating(whole, dtype)
            with scope.rounded(whole, low):
                return turn.objective(low, stats, batch, key, step)

        grads, after, terms, found = gradient(loss, trained, stats, batch, key, microbatch)
        accumulate.distinct(terms, found)
        total = accumulate.total(terms)
        metrics = {
            "loss": total,
            **accumulate.values(terms if len(terms) > 1 else {}),
            **accumulate.values(found),
        }
        if clip is not None:
            grads, metrics["grad_norm"] = _clipped(grads, clip)
        moved, opts = [], list(opt)
        for i, group in zip(turn.by, groups, strict=True):
            others = _without(trained, group)

            def again(part, others=others):
                """Loss and gradient at other values of the group, with the same batch, key and statistics."""

                def of_group(p, *rest):
                    return loss(merge(p, others), *rest)

                g, _, t, _ = gradient(of_group, part, stats, batch, key, microbatch)
                return accumulate.total(t), g if clip is None else _clipped(g, clip)[0]

            own = _of(grads, group)
            extra = _wanted(txs[i], total, own, again)
            updates, opts[i] = txs[i].update(own, opt[i], group, **extra)
            moved.append(optax.apply_updates(group, updates))
        return merge(_union(moved), frozen), after, tuple(opts), metrics

    return take


def _wanted(tx: optax.GradientTransformation, value: Any, grad: Any, again: Callable) -> dict[str, Any]:
    """The extra arguments that an optimizer takes."""
    value_at = differentiable(again)

    def value_fn(part: Any, grad_fn: Any = None) -> Any:
        del grad_fn  # a line search passes on arguments that it does not take itself
        return value_at(part)

    extra = {"value": value, "grad": grad, "value_fn": value_fn, "grad_fn": lambda part, turn=None: again(part)[1]}
    return extra_of(tx, extra)


def _repeated(take: Callable, params: Params, stats: Any, opt: tuple, key: Key, times: int) -> tuple:
    """A turn taken several times in a row, in a scan; the metrics are those of the last."""
    if times == 1:
        return take(params, stats, opt, key)

    def body(carry, i):
        *carry, found = take(*carry, jax.random.fold_in(key, i))
        return tuple(carry), found

    (params, stats, opt), found = jax.lax.scan(body, (params, stats, opt), jnp.arange(times))
    return params, stats, opt, jax.tree.map(lambda a: a[-1], found)


def _committed(objective: Any, stats: Any, params: Params) -> Any:
    after = objective.commit(stats, params)
    chex.assert_trees_all_equal_shapes_and_dtypes(after, stats, custom_message="statistics of an objective's commit")
    return after


def _clipped(grads: Any, limit: float) -> tuple[Any, Any]:
    """The gradient clipped to the norm `limit`, and its norm before clipping."""
    wide = upcast(grads)  # float16 does not hold the square of 256
    norm = optax.tree.norm(wide)
    factor = limit / jnp.maximum(norm, limit)
    return jax.tree.map(lambda g, w: (w * factor.astype(w.dtype)).astype(g.dtype), grads, wide), norm


def _check(variables: Any, key: Any) -> None:
    if not isinstance(variables, Variables):
        raise TypeError(f"variables is a {type(variables).__name__}; give jtl.Variables, as objective.init returns")
    if not flatten(variables.params):
        raise ValueError(
            "the variables are empty, there is no parameter to train: give those of objective.init(key, batch); of an"
            " alignment alone, those of its network, or train jtl.adapt(net, alignments=[...])"
        )
    if not (hasattr(key, "dtype") and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)):
        raise TypeError(f"key is {key!r}; give a key: jax.random.key(0)")


def _union(trees: Sequence[Any]) -> Any:
    flat: dict[str, Any] = {}
    for tree in trees:
        flat |= flatten(tree)
    return unflatten(flat)


def _without(tree: Any, taken: Any) -> Any:
    paths = flatten(taken)
    return unflatten({path: leaf for path, leaf in flatten(tree).items() if path not in paths})


def _of(tree: Any, like: Any) -> Any:
    flat = flatten(tree)
    return unflatten({path: flat[path] for path in flatten(like)})
