"""SWAD: the average of the weights of all steps in a valley of the validation loss."""

from collections.abc import Callable
from typing import Any, NamedTuple

import optax

from jtl import checked
from jtl.model import Variables
from jtl.objective import Objective
from jtl.optim import extra_of
from jtl.train.average import Average, average_add, average_finish, average_start
from jtl.train.evaluate import evaluator
from jtl.train.loss_valley import Valley, ValleyRule, valley_add, valley_average, valley_start
from jtl.train.refresh import Refresh
from jtl.train.schedule_free import schedule_free_averages
from jtl.train.state import State, unshared
from jtl.train.turns import groups_of


class Swad(NamedTuple):
    """The three parts of `swad`.

    Args:
      optimizer: `optimizer(tx) -> tx`: averages the weights after each of its updates, of which turns may take several
        in a step. Its argument is the optimizer of the parameters to average, with all that is chained behind it.
      refresh: for `fit(refresh=...)`; it validates.
      finish: `finish(state) -> Chosen`, after the run.
    """

    optimizer: Callable[[optax.GradientTransformation], optax.GradientTransformation]
    refresh: Refresh
    finish: Callable[[State], "Chosen"]


class Chosen(NamedTuple):
    """The result of SWAD.

    Args:
      variables: the averaged parameters beside those that are not trained, with the last running statistics.
      start: the average has the weights after this step,
      end: up to and with those after this one.
    """

    variables: Variables
    start: int
    end: int


class Averaging(NamedTuple):
    """The state of the optimizer of `swad`.

    Args:
      inner: that of the optimizer itself.
      segment: the average of the weights since the last validation.
      valley: what is kept of all validations.
    """

    inner: Any
    segment: Average
    valley: Valley


def swad(
    objective: Objective | Callable,
    data: Any,
    *,
    every: int,
    optimum: int = 3,
    overfit: int = 6,
    tolerance: float = 1.3,
) -> Swad:
    """Stochastic weight averaging, densely: `θ = 1/(t_e − t_s) Σ_{t_s < t ≤ t_e} θ_t`, over all steps of a valley.

    With the validation losses `E_i` of steps `t_i`, the valley starts at the first `t_s = t_{i−N_s+1}` with
    `E_{i−N_s+1} = min(E_{i−N_s+1}, …, E_i)`. Its threshold is `l = (r/N_s) (E_{i−N_s+1} + … + E_i)`. It ends at
    `t_e = t_{j−N_e}` with the first later j for which all of `E_{j−N_e+1}, …, E_j` are above l. If there is none, it
    ends at the last validation that is not above l. If not even one validation after `t_s` belongs to the valley, the
    result is the average of the weights from the validation before `t_s` to `t_s`.

    All of this is in the state of the optimizer, so a resumed run ends with the same bits. It holds `max(N_s, 2) + 1`
    averages of the trained parameters in float32, for any N_e. The run itself goes on to its last step.

    This is the paper's rule, but that `θ_{t_s}` itself is left out, as in the authors' code, and so is what is above l
    in a valley without an end. For N_e > N_s, as in its experiments, the authors' code also averages weights before
    `t_s`, if all losses since then are at most l, and it counts those from the validation before `t_s` to `t_s` twice.

    The average has other running statistics than any of its weights: after `finish`, call
    `jtl.train.refreshed_statistics` if the network has BatchNorm whose statistics move.

    Args:
      objective: an objective in evaluation mode, such as `jtl.evaluation(net)`. Its "loss" is E, at least 0.
      data: the validation data; for domain generalisation, rows of the training domains that are not trained on.
      every: number of steps between validations, which are in addition to those of `fit(validation=...)`.
      optimum: `N_s`, the optimum patience.
      overfit: `N_e`, the overfit patience.
      tolerance: r, the tolerance rate, at least 1.

    Returns:
      The optimizer's wrapper, the refresh of `fit` and the function that ends it. `refresh.run(state)` serves a loop of
      one's own; after a `pmap_step` it takes the `unreplicated` state. `finish` also validates the steps after the last
      validation, and it raises a ValueError if the loss still fell at the end of the run, because there is no start
      then.

    Raises:
      ValueError: for numbers out of range; at the step's `init`, for a schedule-free optimizer; in a run, if not
        exactly one of its optimizers is from `optimizer`, and for a validation loss that is negative or not finite.
      TypeError: for an argument of `optimizer` that is no optimizer.

    Example:
      >>> import jax, jax.numpy as jnp, jtl, optax
      >>> net = jtl.network(backbone=jtl.backbones.mlp((8,)), head=jtl.heads.linear(3))
      >>> data = jtl.data.arrays(jnp.ones((16, 5)), jnp.zeros(16, int), batch_size=8)
      >>> averaging = jtl.train.swad(jtl.evaluation(net), data, every=2, optimum=1)
      >>> step = jtl.make_step(jtl.finetune(net), averaging.optimizer(optax.sgd(0.01)))
      >>> state = step.init(net.init(jax.random.key(0), data[0]["x"]), jax.random.key(1))
      >>> state = jtl.fit(step, state, data, steps=6, refresh=averaging.refresh, progress=False).state
      >>> variables, start, end = averaging.finish(state)
      >>> start, end
      (2, 6)

    Cha et al., SWAD: Domain Generalization by Seeking Flat Minima, 2021, arXiv 2102.08604.
    """
    checked.whole(1, every=every, optimum=optimum, overfit=overfit)
    checked.within("[1, inf)", tolerance=tolerance)
    rule, run = ValleyRule(int(optimum), int(overfit), float(tolerance)), evaluator(objective)

    def optimizer(tx: optax.GradientTransformation) -> optax.GradientTransformation:
        ((tx,), _) = groups_of(tx, None)

        def init(params: Any) -> Averaging:
            inner = tx.init(params)
            if schedule_free_averages(inner, params):
                raise ValueError(
                    "swad: optax.contrib.schedule_free trains at y and is evaluated at an average x of its own; SWAD"
                    " would average y: give a plain optimizer"
                )
            return Averaging(inner, average_start(params), valley_start(params, rule))

        def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
            updates, inner = tx.update(updates, state.inner, params, **extra_of(tx, extra))
            moved: Any = optax.apply_updates(params, updates)
            segment = average_add(state.segment, moved)
            return updates, state._replace(inner=inner, segment=segment)

        return optax.GradientTransformationExtraArgs(init, update)

    def validated(state: State) -> State:
        place, own = _own(state)
        if not int(own.segment.taken) or bool(own.valley.over):
            return state
        loss = run(Variables(state.params, state.stats), data, key=state.key)["loss"]
        valley = valley_add(own.valley, own.segment, loss, int(state.step), rule)
        own = own._replace(segment=average_start(own.segment.mean), valley=valley)
        return unshared(state._replace(opt=tuple(own if i == place else opt for i, opt in enumerate(state.opt))))

    def finish(state: State) -> Chosen:
        state = validated(state)
        average, start, end = valley_average(_own(state)[1].valley)
        return Chosen(average_finish(average, Variables(state.params, state.stats)), start, end)

    return Swad(optimizer, Refresh(validated, every), finish)


def _own(state: State) -> tuple[int, Averaging]:
    """The only optimizer of a run that averages: its number and its state."""
    found = [(i, opt) for i, opt in enumerate(state.opt) if isinstance(opt, Averaging)]
    if len(found) != 1:
        raise ValueError(
            f"{len(found)} of {len(state.opt)} optimizers are from swad(...).optimizer: give exactly one of them to"
            " make_step, and chain nothing around it"
        )
    return found[0]
