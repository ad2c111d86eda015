"""Several ways to adapt, applied one after the other."""

from typing import Any

import jax

from jtl.methods.meta.inner_loop import Adapt, own_of, start_of, with_own
from jtl.model import Variables
from jtl.objective import NONE
from jtl.typing import Batch, Key, Params, Stats


def chained(*adapts: Adapt) -> Adapt:
    """Adapts to a task in several ways in turn: each starts from the parameters that the previous one returned.

    `chained(prototypes(net), adapt_to(inner, rule, steps=5))` is ProtoMAML; `chained(new_head(net), adapt_to(inner,
    from_optax(adam), steps=100, adapted=select("head/.*")))` is a linear probe, and with `heads.cosine(way,
    temperature=0.5)` it is Baseline++. A class that prototypes rule out by a bias of −∞ keeps probability 0 in the
    steps that follow, because the bias is replaced by −10⁹.

    Args:
      *adapts: at least two, of which at most one has its own parameters (under `rule/` or `per_step/`).

    Raises:
      ValueError: for fewer than two; at init, if two have their own parameters.

    Example:
      >>> import jtl
      >>> net = jtl.network(backbone=jtl.backbones.mlp((8,)), head=jtl.heads.linear(5))
      >>> steps = jtl.adapt_to(jtl.finetune(net), jtl.fixed_rate(0.1), steps=5)
      >>> proto_maml = jtl.meta(jtl.learners.chained(jtl.learners.prototypes(net), steps), jtl.finetune(net))

    Triantafillou et al., Meta-Dataset (ProtoMAML), 2019, arXiv 1903.03096.
    """
    if len(adapts) < 2:
        raise ValueError(f"chained() of {len(adapts)} ways to adapt: give two or more")

    def run(params: Params, stats: Stats, support: Batch, key: Key, step: Any) -> tuple[Params, Stats]:
        own = own_of(params)
        for i, adapt in enumerate(adapts):
            params, stats = adapt(with_own(params, own), stats, support, jax.random.fold_in(key, i), step)
        return params, stats

    def init(key: Key, support: Batch, given: Variables = NONE) -> Variables:
        params, stats, owners = start_of(given.params), given.stats, []
        for adapt in adapts:
            made = adapt.init(key, support, Variables(params, stats))
            params, stats = start_of(made.params), made.stats
            owners.append(own_of(made.params))
        if sum(map(bool, owners)) > 1:
            names = [sorted(own) for own in owners]
            raise ValueError(f"the chained ways to adapt have parameters under {names}: only one may have its own")
        own = {name: value for each in owners for name, value in each.items()}
        return Variables(with_own(params, {**own, **own_of(given.params)}), stats)

    return Adapt(run, init)
