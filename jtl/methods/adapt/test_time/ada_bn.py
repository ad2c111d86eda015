"""AdaBN: the running statistics of BatchNorm, computed on the target."""

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jtl.methods.adapt.test_time.norms import without_dropout
from jtl.methods.near import near
from jtl.model import Model, Variables
from jtl.params import flatten
from jtl.transform.batch_statistics import of_batch


def ada_bn(net: Model, variables: Variables, batches: Iterable[Any]) -> Variables:
    """The variables with BatchNorm's running statistics replaced by the target's, over the rows of all batches.

    `μ = Σ_b n_b μ_b / Σ_b n_b` and `σ² = Σ_b n_b (σ²_b + (μ_b − μ)²) / Σ_b n_b`, with n_b the number of rows in batch
    b. Each batch passes once in training mode, without dropout and stochastic depth, so each layer's statistics are
    computed with the layers below it normalised by the batch. In the first layer the order and the size of the batches
    therefore do not matter. Parameters are unchanged, and so is every statistic that a pass does not update, such as
    that of a frozen BatchNorm. A statistic other than a `var` with a `mean` next to it is averaged over the batches.

    Args:
      net: a network with BatchNorm.
      variables: variables of the source model.
      batches: unlabelled inputs of the target, arrays [batch, ...]; large, shuffled batches are more accurate, because
        their statistics normalise the layers below.

    Raises:
      ValueError: if there is no batch, if the network has no running statistics, or if no pass updates any.

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
    placed = jax.device_put(variables)  # once, because each call would copy NumPy arrays
    put = near(placed)
    seen, rows, found, share = [], [], variables.stats, variables.stats
    for x in batches:
        found, share = of(placed, put(x))
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
    """A statistic of all rows from those of the batches; a variance includes the differences of the means."""

    def of(path: str) -> np.ndarray:
        return np.stack([found[path] for found in seen])

    mean, beside = np.tensordot(weights, of(path), 1), path.removesuffix("var") + "mean"
    if path.rsplit("/", 1)[-1] != "var" or beside not in seen[0]:
        return mean
    middles = of(beside)
    return mean + np.tensordot(weights, (middles - np.tensordot(weights, middles, 1)) ** 2, 1)
