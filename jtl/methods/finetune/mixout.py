"""Mixout: in training, a random part of the parameters is replaced by the pretrained ones."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from jtl import rng
from jtl._tracing import scope
from jtl.checked import within
from jtl.methods.finetune.fisher import floats_only
from jtl.methods.terms import with_own
from jtl.model import Variables
from jtl.objective import NONE, Objective, as_objective
from jtl.params import flatten, select, split, unflatten
from jtl.typing import Aux, Batch, Key, Mask, Params, Stats, Tree

BACKBONE = select("backbone/.*")


def mixout(
    objective: Objective | Callable,
    p: float,
    *,
    mixed: Mask | Tree = BACKBONE,
    name: str = "mixout",
) -> Objective:
    """The objective at `w⁰ + m (w − w⁰) / (1 − p)` instead of w, with m ~ Bernoulli(1 − p) drawn for each input unit.

    With probability p, all weights from an input unit are the pretrained w⁰; otherwise they move further from it, so
    that the expectation is w. A unit is an index of the last axis but one: a row of a dense kernel [in, out], an input
    channel of a convolution, a token of an embedding. In an array with one axis, such as a bias, it is a number. With
    w⁰ = 0 this is dropout of the units. The gradient is that of this formula; the authors' code leaves out its factor
    1 / (1 − p).

    The optimizer updates w, and evaluation by another objective, such as `jtl.evaluation(net)`, uses w. The starting
    point w⁰ is the parameters at `init`, so pass the loaded parameters to `init`. It is kept in the statistics under
    `name`. Terms of the parameters inside the objective, such as `l2_sp` and `ewc`, see w. With `make_step(dtype=)` the
    mixture is taken before the cast.

    Args:
      objective: an objective, such as `jtl.finetune(net)`, or a bare loss function.
      p: the probability of w⁰, in [0, 1); the paper uses .7, .8 and .9.
      mixed: which parameters are mixed. The authors mix kernels of dense layers, not their biases, in place of dropout:
        `jtl.select("backbone/.*/kernel")`, with a network whose dropout is 0. A new head has no pretrained parameters.
      name: the name of w⁰ in the statistics.

    Raises:
      ValueError: for a p outside [0, 1); at init, if `mixed` selects nothing or a parameter that is no float, or if
        `name` is taken; without a key.

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> net = jtl.network(backbone=jtl.backbones.mlp((8,)), head=jtl.heads.linear(3))
      >>> batch = {"x": jnp.ones((4, 5)), "y": jnp.zeros(4, int)}
      >>> objective = jtl.finetuning.mixout(jtl.finetune(net), 0.9)
      >>> variables = objective.init(jax.random.key(0), batch)
      >>> sorted(variables.stats)
      ['mixout']

    Lee et al., Mixout: Effective Regularization to Finetune Large-scale Pretrained Language Models, 2020, arXiv
    1909.11299.
    """
    within("[0, 1)", p=p)
    inner = as_objective(objective)

    def run(params: Params, stats: Stats, batch: Batch, key: Key | None, step: Any) -> tuple[Any, Aux]:
        if key is None:
            raise ValueError(f"{name} draws in training: give a key")
        full, start = scope.unrounded(params), flatten(stats[name])
        wide, drawn = flatten(full), flatten(params)
        for path, origin in start.items():
            own = rng.stream(key, f"{name}/{path}")
            drawn[path] = mixture(wide[path], origin, p, own).astype(drawn[path].dtype)
        at = unflatten(drawn)
        with scope.rounded(full, at):  # so that terms of the parameters find w
            return inner(at, stats, batch, key, step)

    def init(key: Key, batch: Batch, given: Variables = NONE) -> Variables:
        made = inner.init(key, batch, given)
        start, _ = split(made.params, mixed)
        if not flatten(start):
            raise ValueError(f"{name}: `mixed` selects no parameter")
        floats_only(start, name, "mixed")
        return with_own(made, name, start)

    return dataclasses.replace(inner, loss=run, init=init)


def mixture(
    w: Float[ArrayLike, "*shape"], start: Float[ArrayLike, "*shape"], p: float, key: Key
) -> Float[Array, "*shape"]:
    """`w⁰ + m (w − w⁰) / (1 − p)` with m ~ Bernoulli(1 − p) for each unit, in at least float32.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jtl.methods.finetune.mixout import mixture
      >>> found = mixture(jnp.full((9, 2), 3.0), jnp.full((9, 2), 1.0), 0.5, jax.random.key(0))
      >>> sorted(set(found.ravel().tolist())), bool((found[:, 0] == found[:, 1]).all())
      ([1.0, 5.0], True)
    """
    w, start = jnp.asarray(w), jnp.asarray(start)
    wide = jnp.promote_types(w.dtype, jnp.float32)
    origin = start.astype(w.dtype).astype(wide)  # rounded as w is, so that a frozen w stays w⁰
    units = w.shape if w.ndim < 2 else (1,) * (w.ndim - 2) + (w.shape[-2], 1)
    kept = jax.random.bernoulli(key, 1 - p, units)
    return jnp.where(kept, origin + (w.astype(wide) - origin) / (1 - p), origin)
