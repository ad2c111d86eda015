"""AdaBN: the running statistics of BatchNorm, computed on the target."""

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp

from jtl.model import Model, Variables


def ada_bn(net: Model, variables: Variables, batches: Iterable[Any]) -> Variables:
    """The variables with BatchNorm's running statistics replaced by the target's.

    One pass in training mode; the statistics are the mean over batches of each batch's own. Layer l's statistics are
    computed with all layers below it normalised by their batch. Parameters are unchanged.

    Args:
      net: a network with BatchNorm.
      variables: of the source.
      batches: unlabelled inputs of the target, arrays [batch, ...]; large batches are more exact.

    Raises:
      ValueError: where there is no batch, or where the network has no running statistics.

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> net = jtl.network(backbone=jtl.backbones.conv4(8), head=jtl.heads.linear(3))
      >>> x = jax.random.normal(jax.random.key(0), (8, 16, 16, 3))
      >>> variables = jtl.test_time.ada_bn(net, net.init(jax.random.key(1), x), [x])

    Li et al., Revisiting Batch Normalization for Practical Domain Adaptation, 2016, arXiv 1603.04779.
    """
    if not jax.tree.leaves(variables.stats):
        raise ValueError("this network has no running statistics: AdaBN needs BatchNorm")

    @jax.jit
    def moved(stats: Any, x: Any) -> Any:
        return net.apply(Variables(variables.params, stats), x, train=True, key=jax.random.key(0))[1]

    # A layer moves by r + m (s − r). Two starts, 0 and 1, tell m, and so s, whatever the layer's momentum is.
    zeros = jax.tree.map(jnp.zeros_like, variables.stats)
    ones = jax.tree.map(jnp.ones_like, variables.stats)
    total, count = zeros, 0
    for x in batches:
        low, high = moved(zeros, x), moved(ones, x)
        total = jax.tree.map(lambda t, a, b: t + a / (1 + a - b), total, low, high)
        count += 1
    if not count:
        raise ValueError("ada_bn needs at least one batch of the target's inputs")
    return variables._replace(stats=jax.tree.map(lambda t: t / count, total))
