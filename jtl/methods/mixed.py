"""Mixup and CutMix on the device, before any supervised objective."""

from collections.abc import Callable
from typing import Any

from jtl import rng
from jtl.data.mixing import Mix
from jtl.objective import Objective, on
from jtl.typing import Batch, Key


def mixed(objective: Objective | Callable, mix: Mix) -> Objective:
    """The objective on batches whose `x` and `y` are mixed across examples; y becomes distributions, or stays numbers.

    The random draws are a function of the run's key and the step. Rows that the batch's mask leaves out are not mixed
    with any others. Evaluation uses another objective and is not affected. The metrics of the objective see the mixed
    labels: `jtl.metrics.accuracy`, the default, compares with their largest entry; a metric that needs integer labels
    must be left out, as in `finetune(net, metrics={})`. With microbatches, each part mixes within itself. For a
    regression give `mixup(alpha, None)`, which mixes numbers.

    Args:
      objective: an objective on batches `{"x", "y", "mask"}` whose loss accepts distributions, as
        `jtl.losses.cross_entropy` does, or the loss of a regression.
      mix: for instance `jtl.data.mixing.mixup(0.2, classes)`.

    Raises:
      ValueError: while tracing, for a batch without `x` or `y`, or with `weights`, because a weight belongs to a single
        example.

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> from jtl.data.mixing import mixup
      >>> net = jtl.network(backbone=jtl.backbones.mlp((8,)), head=jtl.heads.linear(3))
      >>> objective = jtl.mixed(jtl.finetune(net), mixup(0.2, classes=3))
      >>> batch = {"x": jnp.ones((4, 5)), "y": jnp.array([0, 1, 2, 0])}
      >>> variables = objective.init(jax.random.key(0), batch)
      >>> loss, aux = objective(variables.params, variables.stats, batch, jax.random.key(1), 0)

    Zhang et al., mixup: Beyond Empirical Risk Minimization, 2017, arXiv 1710.09412.
    """

    def changed(batch: Batch, key: Key) -> dict[str, Any]:
        if "x" not in batch or "y" not in batch or batch.get("weights") is not None:
            raise ValueError(f"the batch to mix holds {sorted(batch)}: give 'x' and 'y', and no 'weights'")
        x, y = mix(rng.stream(key, "mix"), batch["x"], batch["y"], batch.get("mask"))
        return {**batch, "x": x, "y": y}

    return on(objective, changed)
