"""The statistics of a single batch, derived from how a pass in training mode updates the running ones."""

from typing import Any

import jax
import jax.numpy as jnp

from jtl.model import Model, Variables
from jtl.typing import Key, Stats


def of_batch(net: Model, variables: Variables, x: Any, key: Key) -> tuple[Stats, Stats]:
    """The statistics s of the batch alone, and the share m by which a pass moves the running statistics to them.

    A layer moves a statistic r by `r + m (s − r)`. Two starts, 0 and k, determine m, and so s, whatever the layer's
    momentum is. k is as large as m s, because with a statistic of 1e8 a start of 1 would leave no digit of m.

    Args:
      net: a network; it runs in training mode, with its dropout.
      variables: variables of the network; only the shapes of the statistics are used.
      x: inputs [batch, ...].
      key: key of the dropout.

    Returns:
      s, and m, which is 0 for statistics that a pass does not move, such as those of a frozen layer; s is then 0.

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> from jtl.transform.batch_statistics import of_batch
      >>> net, x = jtl.backbones.conv4(4), jnp.ones((2, 16, 16, 3))
      >>> key = jax.random.key(0)
      >>> found, moved = jax.eval_shape(lambda: of_batch(net, net.init(key, x), x, key))
      >>> found["stage1"]["norm"]["mean"].shape
      (4,)
    """

    def after(stats: Stats) -> Stats:
        return net.apply(Variables(variables.params, stats), x, train=True, key=key)[1]

    low = after(jax.tree.map(jnp.zeros_like, variables.stats))
    start = jax.tree.map(lambda a: jnp.maximum(jnp.abs(a), 1), low)
    share = jax.tree.map(lambda a, b, k: 1 - (b - a) / k, low, after(start), start)
    return jax.tree.map(lambda a, m: jnp.where(m == 0, 0, a / jnp.where(m == 0, 1, m)), low, share), share
