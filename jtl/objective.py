"""A transfer method as three pure functions: init, loss and commit."""

import dataclasses
import difflib
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jtl._tracing.dce import pruned
from jtl.model import ADAPTER, Model, Variables
from jtl.params import flatten, unflatten
from jtl.typing import Aux, Batch, Key, Params, Stats

NONE = Variables({}, {})
"""No variables: everything is initialised."""


def _nothing(key: Key, batch: Batch, given: Variables = NONE) -> Variables:
    """Initialises nothing: the loss uses the given variables."""
    del key, batch
    return given


def _unchanged(stats: Stats, params: Params) -> Stats:
    del params
    return stats


@dataclasses.dataclass(frozen=True)  # no tuple, because `jax.jit` takes no weak reference to one
class Objective:
    """A transfer method: what a step minimises, how its variables are initialised, and what happens after an update.

    Args:
      loss: `loss(params, stats, batch, key, step) -> (loss, Aux)`; see `jtl.metrics.accumulate` for what a loss may be.
      init: `init(key, batch, given=Variables({}, {})) -> Variables`: `given`, completed by the other variables that the
        method needs, initialised on the shapes of the batch; `complete` makes one from the `init` of a model.
      commit: `commit(stats, params) -> stats`, called once per step after the update, with parameters in full
        precision: for state that belongs to the step and not to a forward pass, such as a teacher's weights, a queue or
        prototypes.
      classes: the names of the classes that the labels stand for, if the network knows them: `evaluate`, `collect` and
        `fit` then match the labels of data by name.

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> net = jtl.network(backbone=jtl.backbones.mlp((8,)), head=jtl.heads.linear(3))
      >>> objective, batch = jtl.finetune(net), {"x": jnp.zeros((4, 5)), "y": jnp.zeros(4, int)}
      >>> variables = objective.init(jax.random.key(0), batch)
      >>> sorted(variables.params)
      ['backbone', 'head']
    """

    loss: Callable[[Params, Stats, Any, Any, Any], tuple[Any, Aux]]
    init: Callable[..., Variables] = _nothing
    commit: Callable[[Stats, Params], Stats] = _unchanged
    classes: tuple[str, ...] | None = None

    def __call__(self, params: Params, stats: Stats, batch: Any, key: Key | None, step: Any) -> tuple[Any, Aux]:
        """The loss, so that an objective can be called like a bare loss function."""
        found = self.loss(params, stats, batch, key, step)
        if not (isinstance(found, tuple) and len(found) == 2 and isinstance(found[1], Aux)):
            name = getattr(self.loss, "__qualname__", repr(self.loss))
            raise TypeError(f"the loss {name} returned {_outline(found)}: give (loss, jtl.Aux(stats))")
        return found


def _outline(found: Any) -> str:
    if isinstance(found, tuple):
        return f"a tuple of {[type(part).__name__ for part in found]}"
    return f"one {type(found).__name__}"


def as_objective(given: Any) -> Objective:
    """Returns an objective unchanged, and a bare loss function as an objective that initialises and commits nothing.

    Raises:
      TypeError: if `given` is not callable, or does not take `(params, stats, batch, key, step)`.
    """
    if isinstance(given, Objective):
        return given
    if not callable(given):
        raise TypeError(
            f"{given!r} is no objective: give jtl.finetune(...), or a function of (params, stats, batch, key, step)"
        )
    try:
        inspect.signature(given).bind(*range(5))
    except ValueError:  # some callables have no signature
        pass
    except TypeError as error:
        name = getattr(given, "__name__", repr(given))
        raise TypeError(
            f"{name} does not take (params, stats, batch, key, step): if it makes an objective, call it, as {name}(...)"
        ) from error
    loss: Any = given
    return Objective(loss)


def on(inner: Objective | Callable, change: Callable[[Any, Key], Any]) -> Objective:
    """The objective on batches that `change` has changed.

    Args:
      inner: an objective, or a bare loss function.
      change: `change(batch, key) -> batch`; the objective gets the same key, so draw from a separate stream of it.

    Raises:
      TypeError: if `inner` is not callable.

    Example:
      >>> import jtl
      >>> net = jtl.network(backbone=jtl.backbones.mlp((8,)), head=jtl.heads.linear(3))
      >>> of_source = jtl.objective.on(jtl.finetune(net), lambda batch, key: batch["source"])
    """
    inner = as_objective(inner)

    def run(params: Params, stats: Stats, batch: Any, key: Any, step: Any) -> tuple[Any, Aux]:
        return inner(params, stats, change(batch, key), key, step)

    def init(key: Key, batch: Any, given: Variables = NONE) -> Variables:
        return inner.init(key, change(batch, key), given)

    return dataclasses.replace(inner, loss=run, init=init)


def init_of(net: Model) -> Callable[..., Variables]:
    """The `init` of an objective that needs no variables except those of its network.

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> net = jtl.network(backbone=jtl.backbones.mlp((8,)), head=jtl.heads.linear(3))
      >>> sorted(jtl.objective.init_of(net)(jax.random.key(0), {"x": jnp.zeros((4, 5))}).params)
      ['backbone', 'head']
    """

    def init(key: Key, batch: Batch, given: Variables = NONE) -> Variables:
        return complete(net.init, key, batch["x"], given)

    return init


def complete(init: Callable[[Key, Any], Variables], key: Key, x: Any, given: Variables) -> Variables:
    """Completes `given` with the variables of `init(key, x)` that it lacks; only these are computed.

    Args:
      init: the `init` of a model.
      key: key for the missing variables; the same key gives the same values, whatever is given.
      x: an example input.
      given: variables to keep, also those that `init` does not make.

    Raises:
      ValueError: for a given array whose shape differs from that of `init`, with its path; for a given parameter below
        a part of the model, such as `head/extra`, that no module of that part has.
    """
    wanted = {kind: flatten(tree) for kind, tree in jax.eval_shape(init, key, x)._asdict().items()}
    have = {kind: flatten(tree) for kind, tree in given._asdict().items()}
    for kind, leaves in wanted.items():
        for path, leaf in sorted(leaves.items(), key=lambda pair: -pair[1].ndim):  # a kernel says more than a bias
            found = have[kind].get(path)
            if found is not None and jnp.shape(found) != leaf.shape:
                name = path if kind == "params" else f"{kind}/{path}"
                raise ValueError(
                    f"{name!r} is given with shape {jnp.shape(found)}, and for this batch it needs {leaf.shape}: its"
                    " width, the number of classes or the input differ"
                )
    parts = {path.split("/")[0] for path in wanted["params"] if "/" in path}
    unread = [
        path
        for path in have["params"]
        if path.split("/")[0] in parts and path not in wanted["params"] and ADAPTER not in path.split("/")
    ]
    if unread:
        raise ValueError(
            f"no module has the given parameter {unread[0]!r}, of {len(unread)} such: {_near(unread[0], wanted)}"
        )
    lacks = {kind: [path for path in leaves if path not in have[kind]] for kind, leaves in wanted.items()}
    if not any(lacks.values()):
        return given

    def missing(key: Key, x: Any) -> dict[str, dict[str, Any]]:
        made = {kind: flatten(tree) for kind, tree in init(key, x)._asdict().items()}
        return {kind: {path: made[kind][path] for path in paths} for kind, paths in lacks.items()}

    drawn = pruned(missing, key, x)
    return Variables(*(unflatten({**drawn[kind], **have[kind]}) for kind in ("params", "stats")))


def _near(path: str, wanted: dict[str, dict[str, Any]]) -> str:
    near = difflib.get_close_matches(path, list(wanted["params"]), n=3)
    return f"the nearest are {near}" if near else "there is none like it"
