"""Elastic weight consolidation: parameters that an old task needs are held near their old values."""

from typing import Any

import jax.numpy as jnp

from jtl._tracing import scope
from jtl.methods.finetune.fisher import fisher_distance
from jtl.methods.terms import at_step, checked, with_own
from jtl.methods.views import Views
from jtl.model import Variables
from jtl.objective import NONE, Objective
from jtl.params import flatten
from jtl.typing import Aux, Key, Params, Schedule, Stats


def ewc(fisher: tuple[Params, Params], weight: float | Schedule, *, name: str = "ewc") -> Objective:
    """The term `λ/2 Σ_j F_j (θ_j − θ*_j)²`, with F the diagonal Fisher information at the parameters θ* of an old task.

    F and θ* are kept in the statistics under `name`. With several old tasks, give a term with a name of its own for
    each. With F = 1 on the backbone this is L2-SP. With `make_step(dtype=)` the term uses the parameters before the
    cast. Parameters that are not in F are free: for a head that the new task replaces, compute F with
    `trainable=jtl.select("backbone/.*")`.

    Args:
      fisher: F and θ*, the result of `jtl.finetuning.fisher_diagonal`.
      weight: λ, a number or a function of the step: how important the old task is. F is a mean over rows, and often
        small, so λ is often large.
      name: name of the term.

    Returns:
      A term for `finetune(net, loss, terms)` or an alignment for `adapt`.

    Raises:
      ValueError: for a weight that is negative or not finite; for an F that is empty, negative or not finite, or whose
        paths or shapes are not those of θ*; at init, for a path that the parameters lack or that has another shape, or
        if `name` is taken.

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> net = jtl.network(backbone=jtl.backbones.mlp((8,)), head=jtl.heads.linear(3))
      >>> batch = {"x": jnp.ones((4, 5)), "y": jnp.zeros(4, int)}
      >>> start = net.init(jax.random.key(0), batch["x"])
      >>> fisher = jtl.finetuning.fisher_diagonal(net, start, [batch])
      >>> objective = jtl.finetune(net, terms=[jtl.finetuning.ewc(fisher, 100.0)])
      >>> variables = objective.init(jax.random.key(0), batch, start)
      >>> loss, _ = objective(variables.params, variables.stats, batch, jax.random.key(1), 0)
      >>> float(loss["ewc"].value)
      0.0

    Kirkpatrick et al., Overcoming catastrophic forgetting in neural networks, 2017, arXiv 1612.00796.
    """
    checked(weight, name)
    information, start = fisher
    shapes = {path: jnp.shape(w) for path, w in flatten(start).items()}
    for path, f in flatten(information).items():
        if jnp.shape(f) != shapes.get(path):
            raise ValueError(f"{name}: F has {path!r} of shape {jnp.shape(f)}, and θ* of {shapes.get(path)}")
        if not bool(jnp.all((f >= 0) & jnp.isfinite(f))):
            raise ValueError(f"{name}: F of {path!r} holds a number that is negative or not finite")
    if not flatten(information):
        raise ValueError(f"{name}: F is empty: compute it with a `trainable` that selects parameters")

    def run(params: Params, stats: Stats, views: Views, key: Key | None, step: Any) -> tuple[Any, Aux]:
        del views, key
        own = stats[name]
        # If rounded by `make_step(dtype=)`, θ would often equal θ* after small steps.
        distance = fisher_distance(scope.unrounded(params), own["fisher"], own["start"])
        return {name: 0.5 * at_step(weight, step) * distance}, Aux(stats)

    def init(key: Key, views: Views, given: Variables = NONE) -> Variables:
        del key, views
        there = {path: jnp.shape(w) for path, w in flatten(given.params).items()}
        for path in flatten(information):
            if there.get(path) != shapes[path]:
                raise ValueError(
                    f"{name}: θ* has {path!r} of shape {shapes[path]}, and the network of {there.get(path)}: compute F"
                    " with a `trainable` that selects what both tasks share, such as jtl.select('backbone/.*')"
                )
        return with_own(given, name, {"fisher": information, "start": start})

    return Objective(run, init)
