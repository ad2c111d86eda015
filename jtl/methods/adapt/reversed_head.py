"""The predictions of a network's own head on features whose gradient is reversed."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jtl import ops, rng
from jtl._tracing import scope
from jtl.methods.terms import clean
from jtl.methods.views import Views, needs
from jtl.model import Model, Variables
from jtl.networks import only_head, part
from jtl.ops import reverse_gradient
from jtl.typing import Key, Params, Stats


def reversed_logits(
    net: Model,
    who: str,
    domains: Sequence[str],
    params: Params,
    stats: Stats,
    views: Views,
    key: Key,
    weight: Any = 1.0,
) -> list[tuple[Float[Array, "rows classes"], Bool[Array, " rows"]]]:
    """For each domain `h(R_λ f)`, h the only head, with zeros in rows that do not count, and which rows count.

    `R_λ` is the identity whose gradient is multiplied by −λ: the head learns a term of these logits, and the features
    learn the opposite. All domains go through the head in one pass.

    Args:
      net: the network.
      who: the method that asks, for the message.
      domains: names of views.
      params: all parameters.
      stats: all statistics.
      views: the views.
      key: key for the head's dropout.
      weight: λ.

    Raises:
      ValueError: for a network with several heads, a missing view, or a head that gives no logits [batch, classes] of
        two classes or more.
    """
    at, head = only_head(net, who)
    needs(views, tuple(domains), who)
    parts = [views[d] for d in domains]
    read = [ops.without_masked(head.reads(view.features, view.x), view.mask) for view in parts]
    joint = jax.tree.map(lambda *rows: reverse_gradient(jnp.concatenate(rows), weight), *read)
    with scope.within(at):
        z, _ = head.apply(part(Variables(params, stats), at), joint, train=True, key=rng.stream(key, at))
    if not isinstance(z, jax.Array) or z.ndim != 2 or z.shape[1] < 2:
        shapes = jax.tree.map(jnp.shape, z)
        raise ValueError(f"{who}: the head returns {shapes}; give logits [batch, classes] of two classes or more")
    found, start = [], 0
    for view, rows in zip(parts, read, strict=True):
        stop = start + jax.tree.leaves(rows)[0].shape[0]
        found.append(clean(z[start:stop], view.mask))
        start = stop
    return found
