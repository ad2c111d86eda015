"""A teacher: the moving average of the network's parameters, which predicts labels for the network itself."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jtl.checked import within
from jtl.methods.adapt.test_time.norms import without_dropout
from jtl.methods.terms import kept_or_new
from jtl.methods.views import Views
from jtl.model import Model, Variables, cast_floating, dtype_of, upcast
from jtl.networks import parts_of
from jtl.objective import NONE
from jtl.typing import Key, Params, Stats


class Teacher(NamedTuple):
    """A teacher as the functions of an alignment.

    Args:
      predict: `predict(params, stats, x, key) -> output`, held constant, in the dtype of `params`.
      init: that of an `Objective`: it stores the teacher, unless the statistics hold one already.
      commit: that of an `Objective`: it moves the teacher.
    """

    predict: Callable[[Params, Stats, Any, Key | None], Any]
    init: Callable[..., Variables]
    commit: Callable[[Stats, Params], Stats]


def averaged(net: Model, momentum: float, name: str, *, dropout: bool = False) -> Teacher:
    """The teacher `θ' ← m θ' + (1 − m) θ` after each step, kept in the statistics under `name`.

    It starts at the parameters of `init`, so early averages are not biased. Whole numbers in the parameters, as those
    of quantised weights, are not averaged: the teacher has the network's. It predicts in training mode, with the
    batch statistics of its rows.

    Args:
      net: the network that is trained.
      momentum: m, in [0, 1).
      name: name of the teacher in the statistics.
      dropout: whether it predicts with dropout.

    Raises:
      ValueError: for a momentum out of range, or a model that is not a network; by its `init`, if `name` is taken.

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> from jtl.methods.adapt.teachers import averaged
      >>> net, x = jtl.network(backbone=jtl.backbones.mlp((8,)), head=jtl.heads.linear(3)), jnp.zeros((4, 5))
      >>> teacher, variables = averaged(net, 0.99, "teacher"), net.init(jax.random.key(0), x)
      >>> stats = teacher.init(jax.random.key(1), {}, variables).stats
      >>> teacher.predict(variables.params, stats, x, None).shape
      (4, 3)
    """
    within("[0, 1)", momentum=momentum)
    names = list(parts_of(net))
    speaker = net if dropout else without_dropout(net)

    def own(params: Params) -> Params:
        return {n: params[n] for n in names if n in params}

    def predict(params: Params, stats: Stats, x: Any, key: Key | None) -> Any:
        held = Variables(cast_floating(stats[name], dtype_of(params)), stats)
        return jax.lax.stop_gradient(speaker.apply(held, x, train=True, key=key)[0].output)

    def init(key: Key, views: Views, given: Variables = NONE) -> Variables:
        del key, views
        return kept_or_new(given, name, upcast(own(given.params)))

    def moved(old: Any, new: Any) -> Any:
        # Whole numbers, such as the codes of quantised weights, have no average.
        return optax.incremental_update(new, old, 1 - momentum) if jnp.issubdtype(old.dtype, jnp.inexact) else new

    def commit(stats: Stats, params: Params) -> Stats:
        return {**stats, name: jax.tree.map(moved, stats[name], upcast(own(params)))}

    return Teacher(predict, init, commit)
