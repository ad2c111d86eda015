"""Domain-specific batch normalisation: each domain has its own scales, biases and statistics."""

from collections.abc import Iterable

import jax
import jax.numpy as jnp

from jtl._tracing import scope
from jtl.methods.adapt.test_time.norms import norms
from jtl.methods.adapt.views import look
from jtl.methods.views import Views
from jtl.model import Model, Variables
from jtl.networks import parts_of
from jtl.params import flatten, split, unflatten
from jtl.typing import Batch, Key, Params, Stats

NAME = "own_norms"
"""The key of the parameters and statistics of such domains, with one entry per domain name."""


def look_apart(
    net: Model, domains: tuple[str, ...], params: Params, stats: Stats, batch: Batch, key: Key | None
) -> tuple[Views, Stats]:
    """Like `look`, with a separate pass for each of `domains` through its own normalisation layers.

    All other views pass together through the network's own layers.

    Raises:
      ValueError: for a domain that is not a view, or if no other view is left.
    """
    missing, rest = sorted(set(domains) - set(batch)), {n: part for n, part in batch.items() if n not in domains}
    if missing:
        raise ValueError(f"own_norms={domains}: the batch has no views {missing}, only {sorted(batch)}")
    if not rest:
        raise ValueError(f"own_norms={domains}: no view is left for the network's own normalisation layers")
    views, new = look(net, params, stats, rest, key)
    own = {}
    for domain in domains:
        seen = of_domain(Variables(params, stats), domain)
        with scope.in_place(f"{NAME}/{domain}/"):  # a layer is frozen if the domain's own parameters are
            more, moved = look(net, seen.params, seen.stats, {domain: batch[domain]}, key)
        views |= more
        own[domain] = {name: moved[name] for name in parts_of(net) if name in moved}
    return views, {**new, NAME: own}


def with_own_norms(net: Model, variables: Variables, domains: tuple[str, ...]) -> Variables:
    """The variables with a copy of the normalisation layers for each domain that has none yet.

    Raises:
      ValueError: if the network has no normalisation layer.
    """
    parts = [name for name in parts_of(net) if name in variables.params]
    layers, _ = split({name: variables.params[name] for name in parts}, norms)
    running = {name: variables.stats[name] for name in parts if name in variables.stats}
    # Copies, because a step donates the memory of its state, and an array can be donated only once.
    params = {d: jax.tree.map(jnp.array, layers) for d in domains} | variables.params.get(NAME, {})
    stats = {d: jax.tree.map(jnp.array, running) for d in domains} | variables.stats.get(NAME, {})
    return Variables({**variables.params, NAME: params}, {**variables.stats, NAME: stats})


def refuse_own(params: Params, names: Iterable[str], who: str) -> None:
    """Raises if a domain has its own normalisation layers, for a term that predicts with the network's layers.

    Raises:
      ValueError: naming the first such domain.
    """
    own = [name for name in names if name in params.get(NAME, {})]
    if own:
        raise ValueError(
            f"{who} predicts {own[0]!r} by the network's own normalisation layers, and own_norms={own[0]!r} gives it"
            " others: leave it out of own_norms"
        )


def of_domain(variables: Variables, domain: str) -> Variables:
    """The variables with which to predict on a domain that has its own normalisation layers.

    Args:
      variables: variables of `adapt(..., own_norms=...)`, which themselves serve to predict on all other views.
      domain: the domain's name.

    Raises:
      ValueError: if the domain has no such layers.

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> net = jtl.network(backbone=jtl.backbones.conv4(8), head=jtl.heads.linear(3))
      >>> objective, x = jtl.adapt(net, own_norms=("source",)), jnp.ones((4, 16, 16, 3))
      >>> batch = {"source": {"x": x, "y": jnp.zeros(4, int)}, "target": {"x": x}}
      >>> variables = objective.init(jax.random.key(0), batch)
      >>> sorted(variables.params), sorted(jtl.alignments.of_domain(variables, "source").params)
      (['backbone', 'head', 'own_norms'], ['backbone', 'head'])
    """
    own = variables.params.get(NAME, {})
    if domain not in own:
        raise ValueError(f"{domain!r} has no normalisation layers of its own; there are those of {sorted(own)}")
    params = flatten({name: part for name, part in variables.params.items() if name != NAME})
    stats = {name: part for name, part in variables.stats.items() if name != NAME}
    return Variables(unflatten({**params, **flatten(own[domain])}), {**stats, **variables.stats[NAME][domain]})
