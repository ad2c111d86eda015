"""Surgical fine-tuning: which parts of a network to train, by the size of their gradients."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jtl.metrics.accumulate import total
from jtl.model import Variables, upcast
from jtl.objective import Objective, as_objective
from jtl.params import flatten, match
from jtl.typing import Key


def relative_gradients(
    objective: Objective | Callable, variables: Variables, batches: Iterable[Any], parts: Sequence[str], key: Key
) -> dict[str, float]:
    """`mean_batches ‖g‖/‖w‖` of each part of the parameters, the largest first.

    Train the first part or the first few: `trainable=select(*list(found)[:2], "head/.*")`.

    Args:
      objective: an objective, such as `finetune(net)`.
      variables: the start of the training, with a head that fits the task.
      batches: labelled batches of the training data.
      parts: patterns, such as `["backbone/stem/.*", "backbone/stage1/.*"]`; a parameter belongs to the first that
        matches, and parameters without a match are left out.
      key: the key of the objective.

    Raises:
      ValueError: if there is no batch or part, for a pattern that matches nothing, or a part whose parameters are all
        0.

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> net = jtl.network(backbone=jtl.backbones.mlp((8, 8)), head=jtl.heads.linear(3))
      >>> batch = {"x": jnp.ones((4, 5)), "y": jnp.zeros(4, int)}
      >>> start = net.init(jax.random.key(0), batch["x"])
      >>> parts = ["backbone/stage1/.*", "backbone/stage2/.*"]
      >>> found = jtl.train.relative_gradients(jtl.finetune(net), start, [batch], parts, jax.random.key(1))
      >>> sorted(found) == parts
      True

    Lee et al., Surgical Fine-Tuning Improves Adaptation to Distribution Shifts, 2022, arXiv 2210.11466.
    """
    inner = as_objective(objective)
    if not parts:
        raise ValueError("parts is empty: give at least one pattern of parameters")
    of = flatten(match([*((pattern, pattern) for pattern in parts), (".*", None)], variables.params))
    weights = flatten(upcast(variables.params))
    sizes = {p: sum(float((w**2).sum()) for path, w in weights.items() if of[path] == p) for p in parts}
    empty = [p for p, size in sizes.items() if not size > 0]
    if empty:
        raise ValueError(f"the parameters of {empty[0]!r} are all 0, and have no relative gradient")

    @jax.jit
    def squares(variables: Variables, batch: Any, key: Key, step: Any) -> dict[str, Any]:
        slope = jax.grad(lambda p: total(inner(p, variables.stats, batch, key, step)[0]))(variables.params)
        g = flatten(upcast(slope))
        return {p: sum((g[path] ** 2).sum() for path in g if of[path] == p) for p in parts}

    ratios, count = dict.fromkeys(parts, 0.0), 0
    for batch in batches:
        found = squares(variables, batch, jax.random.fold_in(key, count), jnp.int32(0))
        ratios = {p: ratios[p] + float(jnp.sqrt(found[p] / sizes[p])) for p in parts}
        count += 1
    if not count:
        raise ValueError("relative_gradients needs at least one batch")
    return dict(sorted(((p, r / count) for p, r in ratios.items()), key=lambda pair: -pair[1]))
