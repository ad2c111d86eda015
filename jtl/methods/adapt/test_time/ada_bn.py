"""AdaBN: the running statistics of BatchNorm, computed on the target."""

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp

from jtl.methods.adapt.test_time.norms import without_dropout
from jtl.model import Model, Variables
from jtl.params import flatten
from jtl.transform.batch_statistics import of_batch


def ada_bn(net: Model, variables: Variables, batches: Iterable[Any]) -> Variables:
    """The variables with BatchNorm's running statistics replaced by the target's, `μ = mean_b μ_b`, `σ² = mean_b σ²_b`.

    One pass in training mode, without dropout and stochastic depth; the statistics are the mean over batches of each
    batch's own. Layer l's statistics are computed with all layers below it normalised by their batch. Parameters are
    unchanged, and so is every statistic that a pass does not move, as of a frozen BatchNorm.

    Args:
      net: a network with BatchNorm.
      variables: of the source.
      batches: unlabelled inputs of the target, arrays [batch, ...]; large batches are more exact.

    Raises:
      ValueError: where there is no batch, or where the network has no running statistics or no pass moves any.

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> net = jtl.network(backbone=jtl.backbones.conv4(8), head=jtl.heads.linear(3))
      >>> x = jax.random.normal(jax.random.key(0), (8, 16, 16, 3))
      >>> variables = jtl.test_time.ada_bn(net, net.init(jax.random.key(1), x), [x])

    Li et al., Revisiting Batch Normalization for Practical Domain Adaptation, 2016, arXiv 1603.04779.
    """
    if not jax.tree.leaves(variables.stats):
        raise ValueError("this network has no running statistics: AdaBN needs BatchNorm")

    quiet = without_dropout(net)
    of = jax.jit(lambda x: of_batch(quiet, variables, x, jax.random.key(0)))
    total = share = jax.tree.map(jnp.zeros_like, variables.stats)
    count = 0
    for x in batches:
        found, share = of(x)
        total = jax.tree.map(jnp.add, total, found)
        count += 1
    if not count:
        raise ValueError("ada_bn needs at least one batch of the target's inputs")
    if not any(bool((m != 0).any()) for m in jax.tree.leaves(share)):
        names = sorted(flatten(variables.stats))
        raise ValueError(
            f"a pass in training mode moves none of the running statistics {names[:3]}: is BatchNorm frozen in this"
            " network? AdaBN needs it to be trained"
        )

    def adapted(before: Any, t: Any, m: Any) -> Any:
        return jnp.where(m == 0, before, t / count).astype(before.dtype)

    return variables._replace(stats=jax.tree.map(adapted, variables.stats, total, share))
