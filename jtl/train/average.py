"""Stochastic weight averaging: the mean of the parameters of several steps, and new running statistics for it."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jtl.model import Model, Variables, upcast
from jtl.params import flatten, unflatten
from jtl.transform.batch_statistics import of_batch
from jtl.typing import Key, Params


class Average(NamedTuple):
    """A mean of parameters.

    Args:
      taken: the number of parameter trees in the mean.
      mean: the mean, in float32 at least.
    """

    taken: Array
    mean: Params


def average_start(params: Params) -> Average:
    """An empty mean of parameters like these; give the trainable parameters, or all.

    Example:
      >>> import jax.numpy as jnp, jtl
      >>> average = jtl.train.average_start({"w": jnp.zeros(2)})
      >>> average = jtl.train.average_add(jtl.train.average_add(average, {"w": jnp.ones(2)}), {"w": 3 * jnp.ones(2)})
      >>> int(average.taken), average.mean["w"].tolist()
      (2, [2.0, 2.0])
    """
    return Average(jnp.zeros((), jnp.int32), jax.tree.map(jnp.zeros_like, upcast(params)))


def average_add(average: Average, params: Params) -> Average:
    """`m ← m + (θ − m)/(n + 1)`: after n calls the mean of all n. Call it once per epoch, at the end of a cycle.

    Example:
      >>> import jax.numpy as jnp, jtl
      >>> average = jtl.train.average_start({"w": jnp.zeros(1)})
      >>> for epoch in (1.0, 3.0):
      ...     average = jtl.train.average_add(average, {"w": jnp.array([epoch])})
      >>> average.mean["w"].tolist()
      [2.0]

    Izmailov et al., Averaging Weights Leads to Wider Optima and Better Generalization, 2018, arXiv 1803.05407.
    """
    taken = average.taken + 1
    mean = jax.tree.map(lambda m, p: m + (p.astype(m.dtype) - m) / taken.astype(m.dtype), average.mean, params)
    return Average(taken, mean)


def average_finish(average: Average, variables: Variables) -> Variables:
    """The variables with averaged parameters in place of their own, in their own types; the statistics as they were.

    Raises:
      ValueError: if nothing was added, or the variables lack a parameter of the average.

    Example:
      >>> import jax.numpy as jnp, jtl
      >>> average = jtl.train.average_add(jtl.train.average_start({"w": jnp.zeros(1)}), {"w": jnp.array([2.0])})
      >>> variables = jtl.Variables({"w": jnp.zeros(1), "fixed": jnp.ones(1)}, {})
      >>> {name: a.tolist() for name, a in jtl.train.average_finish(average, variables).params.items()}
      {'w': [2.0], 'fixed': [1.0]}
    """
    if not int(average.taken):
        raise ValueError("nothing was added to the average: call average_add at the steps to average")
    flat, mean = flatten(variables.params), flatten(average.mean)
    unknown = sorted(mean.keys() - flat.keys())
    if unknown:
        raise ValueError(f"the average holds {unknown[0]!r}, of {len(unknown)} such, and the variables do not")
    return variables._replace(params=unflatten({**flat, **{p: m.astype(flat[p].dtype) for p, m in mean.items()}}))


def refreshed_statistics(net: Model, variables: Variables, batches: Iterable[Any], key: Key) -> Variables:
    """The variables with the running statistics of `net` computed anew: the mean of the statistics of each batch.

    Averaged parameters need this if there is BatchNorm, because its statistics belong to other parameters. Like
    `torch.optim.swa_utils.update_bn`; every batch weighs the same, so leave out a smaller last one.

    Args:
      net: a network.
      variables: its variables, such as those from `average_finish`.
      batches: batches of inputs x from the training data.
      key: the key for dropout, which is on, as in training.

    Returns:
      The variables; statistics that no forward pass moves stay.

    Raises:
      ValueError: if there is no batch, or for a network without running statistics.

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> net = jtl.network(backbone=jtl.backbones.conv4(4), head=jtl.heads.linear(3))
      >>> x = jnp.ones((4, 16, 16, 3))
      >>> start = net.init(jax.random.key(0), x)
      >>> fresh = jtl.train.refreshed_statistics(net, start, [x], jax.random.key(1))
    """
    if not jax.tree.leaves(variables.stats):
        raise ValueError("this network has no running statistics: there is nothing to refresh")

    @jax.jit
    def moved(variables: Variables, x: Any, key: Key) -> Any:
        found, share = of_batch(net, variables, x, key)
        return jax.tree.map(lambda s, m, kept: jnp.where(m == 0, kept, s), found, share, variables.stats)

    total, count = None, 0
    for x in batches:
        found = moved(variables, x, jax.random.fold_in(key, count))
        total = found if total is None else jax.tree.map(jnp.add, total, found)
        count += 1
    if total is None:
        raise ValueError("refreshed_statistics needs at least one batch")
    return variables._replace(stats=jax.tree.map(lambda t: t / count, total))
