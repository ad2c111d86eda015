"""DELTA: keeps features near the pretrained network's, each channel weighted by its importance for the task."""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from jtl import losses, ops
from jtl.methods.finetune.feature_distillation import feature_of, teacher_feature
from jtl.methods.finetune.finetune import evaluation
from jtl.methods.near import near
from jtl.methods.terms import checked, weighted, with_own
from jtl.methods.views import Views
from jtl.metrics.accumulate import Mean, mean
from jtl.model import Model, Variables
from jtl.networks import network, parts_of
from jtl.objective import NONE, Objective
from jtl.reads import positions
from jtl.transform.intercept import Call, on_outputs
from jtl.typing import Aux, Key, Params, Schedule, Stats


def delta(
    teacher: Model,
    variables: Variables,
    attention: Mapping[str, Any],
    weight: float | Schedule = 0.01,
    *,
    name: str = "delta",
) -> Objective:
    """The term `λ mean_i Σ_f C_f Σ_c a_fc ½ mean_p (F_ic(p) − F⁰_ic(p))²` over features f, channels c and positions p.

    Padding tokens and frames do not count as positions.

    The weights a of a feature sum to 1 over its C channels. The teacher is the network before training; it runs in
    evaluation mode, and its variables are kept in the statistics under `name`. The paper adds `β/2 ‖w_head‖²`: use
    weight decay on the head for that.

    Args:
      teacher: the network itself (`jtl.network`).
      variables: the network's variables before training.
      attention: the weights [channels] of each feature by name, as `channel_attention` returns; None for equal weights.
      weight: λ, a number or a function of the step.
      name: name of the term and of the teacher in the statistics.

    Returns:
      A term for `finetune(net, loss, terms)` or an alignment for `adapt`; all rows of all views count.

    Raises:
      ValueError: for a weight that is negative or not finite, no features, negative attention; at init, if `name` is
        taken; while tracing, for a feature that is missing or has another number of channels.

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> net = jtl.network(backbone=jtl.backbones.mlp((8,)), head=jtl.heads.linear(3))
      >>> start = net.init(jax.random.key(0), jnp.zeros((4, 5)))
      >>> objective = jtl.finetune(net, terms=[jtl.finetuning.delta(net, start, {"pooled": None})])

    Li et al., DELTA: Deep Learning Transfer using Feature Map with Attention for Convolutional Networks, 2019, arXiv
    1901.09229.
    """
    checked(weight, name)
    if not attention:
        raise ValueError(f"{name}: attention={attention}: give that of at least one feature")
    given = {feature: None if a is None else np.asarray(a, np.float32) for feature, a in attention.items()}
    for feature, a in given.items():
        if a is not None and (a.ndim != 1 or not (a >= 0).all()):
            raise ValueError(f"{name}: attention[{feature!r}] has shape {a.shape}: one weight >= 0 for each channel")

    def run(params: Params, stats: Stats, views: Views, key: Key | None, step: Any) -> tuple[Any, Aux]:
        del params, key
        total, count = jnp.zeros(()), jnp.zeros(())
        for view in views.values():
            rows = []
            for feature, a in given.items():
                f = feature_of(view.features, feature, f"{name}, network")
                if a is not None and a.shape != f.shape[-1:]:
                    raise ValueError(f"{name}: {feature!r} has {f.shape[-1]} channels, and attention {a.shape[0]}")
                kept = positions(f.shape, view.features, view.x)
                rows.append(distance(f, teacher_feature(teacher, stats[name], view, feature, name), a, kept))
            one = mean(jnp.stack(rows).sum(0), view.mask)
            total, count = total + one.total, count + one.count
        return {name: weighted(Mean(total, count), weight, step)}, Aux(stats)

    def init(key: Key, views: Views, given: Variables = NONE) -> Variables:
        del key, views
        return with_own(given, name, variables._asdict())

    return Objective(run, init)


def distance(
    f: Float[ArrayLike, "batch *positions channels"],
    start: Float[ArrayLike, "..."],
    attention: Any = None,
    kept: Any = None,
) -> Float[Array, "batch"]:
    """`C Σ_c a_c ½ mean_p (F_c(p) − F⁰_c(p))²` for each row, over kept positions; without attention, a = 1/C."""
    f, start = jnp.asarray(f), jnp.asarray(start)
    if f.shape != start.shape:
        raise ValueError(f"the feature has shape {f.shape}, the teacher's {start.shape}: they must be equal")
    wide = jnp.promote_types(f.dtype, jnp.float32)
    squares = (f.astype(wide) - start.astype(wide)) ** 2
    squares = squares.mean(tuple(range(1, f.ndim - 1))) if kept is None else ops.mean_of_tokens(squares, kept)
    a = jnp.full(f.shape[-1], 1 / f.shape[-1], wide) if attention is None else jnp.asarray(attention, wide)
    return 0.5 * f.shape[-1] * (squares * a[None]).sum(1)


def channel_attention(
    net: Model,
    variables: Variables,
    batches: Iterable[Mapping[str, Any]],
    module: str,
    *,
    channels: int,
    temperature: float = 5.0,
    loss: Callable = losses.cross_entropy,
) -> Array:
    """The attention `a = softmax(Δ/T)`, Δ_c the increase of the loss if channel c of a module's output is set to 0.

    Args:
      net: a network whose head was trained for the new task on the frozen backbone.
      variables: the network's variables.
      batches: batches `{"x", "y", "mask"}`, the mask optional.
      module: the path of a module in the backbone, such as `stage4/block2`, whose output is the feature.
      channels: number of channels of that output.
      temperature: T > 0.
      loss: as in `finetune`.

    Returns:
      The weights [channels], which sum to 1.

    Raises:
      ValueError: for a missing module, a temperature that is not positive, or no labelled row.

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> net = jtl.network(backbone=jtl.backbones.mlp((8,)), head=jtl.heads.linear(3))
      >>> batch = {"x": jnp.ones((4, 5)), "y": jnp.zeros(4, int)}
      >>> start = net.init(jax.random.key(0), batch["x"])
      >>> jtl.finetuning.channel_attention(net, start, [batch], "stage1", channels=8).shape
      (8,)

    Li et al., DELTA: Deep Learning Transfer using Feature Map with Attention for Convolutional Networks, 2019, arXiv
    1901.09229.
    """
    if not temperature > 0 or channels < 1:
        raise ValueError(f"temperature={temperature}, channels={channels}: positive, and at least 1")
    parts = parts_of(net)

    def value(factors: Any, variables: Variables, batch: Any) -> Any:
        def scaled(y: Any, call: Call) -> Any:
            del call
            return y * factors.astype(y.dtype).reshape((1,) * (y.ndim - 1) + (-1,))

        missing = f"channel_attention: the backbone has no module {module!r}"
        backbone = on_outputs(parts["backbone"], re.escape(module), scaled, missing)
        objective = evaluation(network(**{**parts, "backbone": backbone}), loss, metrics={})
        return objective(variables.params, variables.stats, batch, None, 0)[0]

    @jax.jit
    def values(variables: Variables, batch: Any) -> Any:
        kept = 1 - jnp.eye(channels + 1, channels)  # the last row removes nothing
        return jax.lax.map(lambda factors: value(factors, variables, batch), kept)

    put, total, count = near(variables), jnp.zeros(channels + 1), jnp.zeros(channels + 1)
    for batch in batches:
        found = values(variables, put(dict(batch)))
        total, count = total + found.total, count + found.count
    if not float(count.sum()):
        raise ValueError("channel_attention needs at least one labelled row")
    each = total / count
    return jax.nn.softmax((each[:-1] - each[-1]) / temperature)
