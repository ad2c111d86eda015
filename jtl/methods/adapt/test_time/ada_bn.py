"""AdaBN: the running statistics of BatchNorm, computed on the target."""

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jtl.methods.adapt.test_time.norms import without_dropout
from jtl.model import Model, Variables
from jtl.params import flatten
from jtl.transform.batch_statistics import of_batch


def ada_bn(net: Model, variables: Variables, batches: Iterable[Any]) -> Variables:
    """The variables with BatchNorm's running statistics replaced by the target's, over the rows of all batches.

    `μ = Σ_b n_b μ_b / Σ_b n_b` and `σ² = Σ_b n_b (σ²_b + (μ_b − μ)²) / Σ_b n_b`, n_b the rows of batch b: its order and
    the size of the batches do not count in the first layer. One pass in training mode, without dropout and stochastic
    depth. Layer l's statistics are computed with all layers below it normalised by their batch. Parameters are
    unchanged, and so is every statistic that a pass does not move, as of a frozen BatchNorm. A statistic that is no
    `var` beside a `mean` is the mean of the batches' own.

    Args:
      net: a network with BatchNorm.
      variables: of the source.
      batches: unlabelled inputs of the target, arrays [batch, ...]; large and shuffled ones are more exact, because
        they normalise the layers below.

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
    of = jax.jit(lambda variables, x: of_batch(quiet, variables, x, jax.random.key(0)))
    placed = jax.device_put(variables)  # once: a call copies NumPy arrays each time
    seen, rows, found, share = [], [], variables.stats, variables.stats
    for x in batches:
        found, share = of(placed, x)
        seen.append(jax.device_get(flatten(found)))
        rows.append(len(jax.tree.leaves(x)[0]))
    if not seen:
        raise ValueError("ada_bn needs at least one batch of the target's inputs")
    if not any(bool((m != 0).any()) for m in jax.tree.leaves(share)):
        names = sorted(flatten(variables.stats))
        raise ValueError(
            f"a pass in training mode moves none of the running statistics {names[:3]}: is BatchNorm frozen in this"
            " network? AdaBN needs it to be trained"
        )
    weights = np.asarray(rows) / sum(rows)
    new = jax.tree.unflatten(jax.tree.structure(found), [_over(seen, weights, path) for path in seen[0]])

    def adapted(before: Any, a: Any, m: Any) -> Any:
        return jnp.where(m == 0, before, a).astype(before.dtype)

    return variables._replace(stats=jax.tree.map(adapted, variables.stats, new, share))


def _over(seen: list[dict[str, Any]], weights: np.ndarray, path: str) -> Any:
    """A statistic of all rows from those of each batch: of a variance, with what the means differ by."""

    def of(path: str) -> np.ndarray:
        return np.stack([found[path] for found in seen])

    mean, beside = np.tensordot(weights, of(path), 1), path.removesuffix("var") + "mean"
    if path.rsplit("/", 1)[-1] != "var" or beside not in seen[0]:
        return mean
    middles = of(beside)
    return mean + np.tensordot(weights, (middles - np.tensordot(weights, middles, 1)) ** 2, 1)
