"""Prototypical networks: a linear head in closed form, from the mean of each class's features."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jtl.methods.meta.inner_loop import Adapt, start_of
from jtl.metrics.accumulate import element_weights
from jtl.model import Model, Variables
from jtl.networks import parts_of
from jtl.objective import init_of
from jtl.typing import Batch, Key, Params, Stats


def prototypes(net: Model, *, train: bool = True) -> Adapt:
    """Sets the head so that logits are `−‖z − c_k‖² + ‖z‖²`, c_k the mean of the support features of class k.

    This head is linear, `head/out` with the columns `2 c_k` and the biases `−‖c_k‖²`, so gradient steps may follow
    (ProtoMAML is `chained(prototypes(net), adapt_to(...))`). `‖z‖²` is the same for all classes and thus changes no
    probability. A class without support has the bias −∞ and thus probability 0.

    Args:
      net: `jtl.network(backbone=..., head=jtl.heads.linear(way))`; the features that the head reads are averaged.
      train: whether to run the support set in training mode, in which BatchNorm uses the statistics of the set, and not
        in evaluation mode, in which it uses running statistics.

    Returns:
      An `Adapt` that has no parameters of its own. The support set's `mask` and `weights` are used as in a loss.

    Raises:
      ValueError: for a network that does not have exactly one head; while tracing, for a head that is not one layer
        `out` with a bias, or labels that are not one integer per row.

    Example:
      >>> import jtl
      >>> net = jtl.network(backbone=jtl.backbones.conv4(64, downsample="pool"), head=jtl.heads.linear(5))
      >>> objective = jtl.meta(jtl.learners.prototypes(net), jtl.finetune(net))

    Snell et al., Prototypical Networks for Few-shot Learning, 2017, arXiv 1703.05175; Triantafillou et al.,
    Meta-Dataset (ProtoMAML), 2019, arXiv 1903.03096.
    """
    head = head_of(net)

    def run(params: Params, stats: Stats, support: Batch, key: Key, step: Any) -> tuple[Params, Stats]:
        del step
        params = start_of(params)
        kernel, bias = linear_layer(params, head)
        z, member, stats = read_support(net, params, stats, support, key, kernel.shape[-1], train=train)
        counts = member.sum(0)
        c = member.T @ z / jnp.maximum(counts, 1e-30)[:, None]
        bias = jnp.where(present(member), -jnp.square(c).sum(-1), -jnp.inf).astype(bias.dtype)
        return {**params, head: {"out": {"kernel": 2 * c.T.astype(kernel.dtype), "bias": bias}}}, stats

    return Adapt(run, init_of(net))


def head_of(net: Model) -> str:
    """The name of a network's only head.

    Raises:
      ValueError: if it has none or several.
    """
    heads = [name for name in parts_of(net) if name != "backbone"]
    if len(heads) != 1:
        raise ValueError(f"this network has the heads {heads}: a learner from the support set needs exactly one")
    return heads[0]


def linear_layer(params: Params, head: str) -> tuple[Array, Array]:
    """Kernel and bias of a head that is one linear layer.

    Raises:
      ValueError: for any other head.
    """
    own = params.get(head, {})
    if set(own) != {"out"} or set(own["out"]) != {"kernel", "bias"}:
        raise ValueError(f"the head {head!r} is set in closed form and must be jtl.heads.linear(way), with its bias")
    return own["out"]["kernel"], own["out"]["bias"]


def read_support(
    net: Model, params: Params, stats: Stats, support: Batch, key: Key, way: int, *, train: bool
) -> tuple[Float[Array, "rows *features"], Float[Array, "rows way"], Stats]:
    """What the head reads for the support set, the weight of each row in each class, and the new statistics.

    Rows that the mask or the weights leave out are zeros in the input and in the result, so that a NaN in them has no
    effect. The weights of a row whose label lies outside [0, way) are NaN.

    Raises:
      ValueError: for labels that are not one integer per row.
    """
    x, y = support["x"], jnp.asarray(support["y"])
    if y.ndim != 1 or not jnp.issubdtype(y.dtype, jnp.integer):
        raise ValueError(
            f"labels y of the support set have the shape {y.shape} and the dtype {y.dtype}: this learner reads classes,"
            " so give integers [rows], the class of each"
        )
    weight = element_weights(y.shape, support.get("mask"), support.get("weights"))
    if weight is not None:
        x = jax.tree.map(lambda a: jnp.where(_along(weight, a) > 0, a, jnp.zeros_like(a)), x)
    out, stats = net.apply(Variables(params, stats), x, train=train, key=key if train else None)
    z = out.read.astype(jnp.promote_types(out.read.dtype, jnp.float32))
    member = jnp.where(((y >= 0) & (y < way))[:, None], jax.nn.one_hot(y, way, dtype=z.dtype), jnp.nan)
    if weight is None:
        return z, member, stats
    return (
        jnp.where(_along(weight, z) > 0, z, 0),
        jnp.where(weight[:, None] > 0, member * weight.astype(z.dtype)[:, None], 0),
        stats,
    )


def present(member: Float[Array, "rows way"]) -> Bool[Array, " way"]:
    """Which classes have support; all if none has, because logits that are all −∞ give NaN."""
    found = (member > 0).any(0)
    return found | ~found.any()


def _along(rows: Array, a: Any) -> Array:
    return rows.reshape(-1, *[1] * (jnp.ndim(a) - 1))
