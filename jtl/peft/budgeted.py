"""AdaLoRA's budget: an optimizer that switches off the least important directions of all updates together."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Int

from jtl.checked import whole, within
from jtl.optim import extra_of
from jtl.params import flatten, unflatten
from jtl.peft.attach import wide


class BudgetState(NamedTuple):
    """The state of `budgeted`.

    Args:
      count: the number of steps that were taken.
      inner: the state of the optimizer.
      sensitivity: moving averages of `|w ∂L/∂w|`, at the paths of the parameters w of AdaLoRA.
      uncertainty: moving averages of the distance from those.
      kept: which directions the last allocation kept, at the paths of the singular values.
    """

    count: Int[Any, ""]
    inner: Any
    sensitivity: Any
    uncertainty: Any
    kept: Any


def budgeted(
    tx: optax.GradientTransformation,
    target: int,
    total_steps: int,
    *,
    warmup: int = 0,
    final: int = 0,
    every: int = 1,
    beta1: float = 0.85,
    beta2: float = 0.85,
) -> optax.GradientTransformationExtraArgs:
    """An optimizer for `jtl.peft.adalora` that sets the least important singular values of all modules to 0.

    The importance of a direction i of a module is `S(s_i) + mean_j S(U_ji) + mean_j S(V_ij)`. `S(w) = Ī(w) Ū(w)` is the
    product of two moving averages: of the sensitivity `I(w) = |w ∂L/∂w|`, with β₁, and of its uncertainty
    `|I(w) − Ī(w)|`, with β₂. At step t the budget is the number of directions that are left, of all modules together:

        all of them                                               for t ≤ warmup
        target + (all − target) (1 − (t − warmup) / (end − warmup))³  until the end, the step `total_steps − final`
        target                                                    from then on

    with `target` times the number of modules as the target. Directions compete at every `every`-th step; in between,
    s is free, so that a direction may return. From the end on the choice stays. Steps count from 1. As in the authors'
    code and in PEFT, w is the parameter after the optimizer's step and the gradient that before it.

    Args:
      tx: the optimizer of all trained parameters. What changes updates, such as a learning rate or
        `jtl.optim.scale(...)`, belongs in it: behind `budgeted` it would turn the zeros into other numbers.
      target: the mean rank of a module at the end.
      total_steps: number of steps of the run.
      warmup: number of steps before the budget falls.
      final: number of steps after it has fallen.
      every: number of steps between two choices, ΔT.
      beta1: β₁, in (0, 1).
      beta2: β₂, in (0, 1).

    Returns:
      A transformation whose state is a `BudgetState`; parameters of other kinds are updated as by `tx`. A clipping of
      gradients inside `tx` is not seen by the importance, but `make_step(clip=)` is.

    Raises:
      ValueError: for a number that is no integer or out of range, a warmup and a final phase that leave no step between
        them, or a budget that is spent at the first step; at init, if U, s and V of no module are trained, or of one
        not all three, and for a target above the mean rank; at update, without the parameters.

    Zhang et al., AdaLoRA: Adaptive Budget Allocation for Parameter-Efficient Fine-Tuning, 2023, arXiv 2303.10512.

    Example:
      >>> import jax, jax.numpy as jnp, jtl, optax
      >>> net = jtl.network(backbone=jtl.backbones.mlp((8, 8)), head=jtl.heads.linear(3))
      >>> batch = {"x": jax.random.normal(jax.random.key(0), (6, 5)), "y": jnp.arange(6) % 3}
      >>> net, variables = jtl.peft.attach(net, net.init(jax.random.key(0), batch["x"]), jtl.peft.adalora(4, (".*",)),
      ...     jax.random.key(1))
      >>> tx = jtl.peft.budgeted(optax.adam(1e-2), target=2, total_steps=5)
      >>> step = jtl.make_step(jtl.finetune(net), tx, trainable=jtl.select("backbone/adapter/.*"))
      >>> state, run = step.init(variables, jax.random.key(2)), jax.jit(step)
      >>> for _ in range(5):
      ...     state, _ = run(state, batch)
      >>> sum(int((s != 0).sum()) for path, s in jtl.flatten(state.params).items() if path.endswith("/s"))
      4
    """
    whole(1, target=target, total_steps=total_steps, every=every)
    whole(0, warmup=warmup, final=final)
    within("(0, 1)", beta1=beta1, beta2=beta2)
    end = total_steps - final
    if warmup >= end:
        raise ValueError(
            f"warmup={warmup}, final={final}, total_steps={total_steps}: there is no step between, at which the budget"
            " could fall"
        )
    if end < 2:
        raise ValueError(
            f"final={final}, total_steps={total_steps}: the budget would be spent at step 1, before the importance of"
            " any direction is known; give more steps"
        )

    def init(params: Any) -> Any:
        flat = flatten(params)
        found = triplets(flat)
        total, least = sum(len(flat[s]) for _, s, _ in found), target * len(found)
        if total < least:
            raise ValueError(f"target={target}: the mean rank of the {len(found)} modules is {total / len(found):g}")
        blank = unflatten({path: jnp.zeros_like(wide(flat[path])) for three in found for path in three})
        kept = unflatten({s: jnp.ones(len(flat[s]), bool) for _, s, _ in found})
        return BudgetState(jnp.zeros((), jnp.int32), tx.init(params), blank, blank, kept)

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        if params is None:
            raise ValueError("budgeted needs the parameters: tx.update(updates, state, params)")
        step, before = state.count + 1, flatten(params)
        moves, opt = tx.update(updates, state.inner, params, **extra_of(tx, extra))
        grads, flat = flatten(updates), flatten(moves)
        found = triplets(before)
        sensitivity, uncertainty = flatten(state.sensitivity), flatten(state.uncertainty)
        for path in sensitivity:
            now = jnp.abs(wide(before[path] + flat[path]) * wide(grads[path]))
            mean = beta1 * sensitivity[path] + (1 - beta1) * now
            apart = beta2 * uncertainty[path] + (1 - beta2) * jnp.abs(now - mean)
            sensitivity[path] = jnp.where(step < end, mean, sensitivity[path])
            uncertainty[path] = jnp.where(step < end, apart, uncertainty[path])
        importance = {path: sensitivity[path] * uncertainty[path] for path in sensitivity}
        total = sum(len(before[s]) for _, s, _ in found)
        falls = _falls(total, target * len(found), warmup, end)
        chosen = _most(importance, found, (jnp.asarray(falls) <= step).sum())
        due = (step <= end) & (step > warmup) & ((step % every == 0) | (step == end))
        kept = {path: jnp.where(due, chosen[path], old) for path, old in flatten(state.kept).items()}
        for path, rest in kept.items():
            off = (due | (step > end)) & ~rest
            flat[path] = jnp.where(off, -before[path], flat[path])
        rest = (unflatten(tree) for tree in (sensitivity, uncertainty, kept))
        return unflatten(flat), BudgetState(step, opt, *rest)

    return optax.GradientTransformationExtraArgs(init, update)


def triplets(flat: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """The paths of U, s and V of every module with AdaLoRA among parameters by path.

    Raises:
      ValueError: if there is none, or only a part of one.
    """
    modules = sorted({path[:-2] for path in flat if re.fullmatch(r"(.*/)?adapter/.*/[usv]", path)})
    found = [(f"{module}/u", f"{module}/s", f"{module}/v") for module in modules]
    if not found:
        raise ValueError(f"there is no jtl.peft.adalora among the parameters, of which the first are {[*flat][:3]}")
    missing = [path for three in found for path in three if path not in flat]
    if missing:
        raise ValueError(f"{missing[0]!r} is not among the parameters, beside the others of its module; train them all")
    return found


def _falls(total: int, target: int, warmup: int, end: int) -> np.ndarray:
    """The steps at which one direction more is switched off, as many as are to be switched off."""
    steps = np.arange(warmup + 1, end + 1)
    budget = ((total - target) * (1 - (steps - warmup) / (end - warmup)) ** 3 + target).astype(int)
    return steps[np.searchsorted(total - budget, np.arange(1, total - target + 1))].astype(np.int32)


def _most(
    importance: Mapping[str, Array], found: Sequence[tuple[str, str, str]], off: Array
) -> dict[str, Bool[Array, "rank"]]:
    """Which directions remain if the `off` least important of all modules go, and those equal to the last of them."""
    scores = {}
    for u, s, v in found:
        inputs = tuple(range(importance[u].ndim - 1))
        scores[s] = importance[s] + importance[u].mean(inputs) + importance[v].mean(1)
    ranked = jnp.sort(jnp.concatenate(list(scores.values())))
    last = jnp.where(off > 0, ranked[jnp.maximum(off - 1, 0)], -1)
    return {path: score > last for path, score in scores.items()}
