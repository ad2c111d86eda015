"""Bi-Tuning with the keys of a momentum encoder, kept in one queue per class."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from jtl import ops, rng
from jtl._tracing import scope
from jtl.methods.finetune.bi_tuning import vectors_of
from jtl.methods.finetune.contrastive import unit_rows
from jtl.methods.terms import checked, weighed, weighted, with_own
from jtl.methods.views import Views, classes_of_rows, needs
from jtl.metrics.accumulate import mean
from jtl.model import Model, Variables, cast_floating, dtype_of, upcast
from jtl.networks import parts_of
from jtl.objective import NONE, Objective
from jtl.params import flatten
from jtl.typing import Aux, Key, Params, Schedule, Stats


def bi_tuning_queue(
    net: Model,
    weight: float | Schedule = 1.0,
    *,
    width: int = 128,
    size: int = 40,
    momentum: float = 0.999,
    temperature: float = 0.07,
    feature: str = "pooled",
    head: str = "head/out",
    name: str = "bi_tuning",
) -> Objective:
    """The terms `<name>_rows` and `<name>_classes` of Bi-Tuning, with the paper's momentum encoder and queues.

    Row i of class c has its own key k_i from the encoder `θ' ← m θ' + (1 − m) θ`, and the queues hold the last K keys
    of each class from earlier steps. With P the keys of class c in the queues and Q all keys,

        rows:     −1/(1+|P|) Σ_{k ∈ {k_i} ∪ P} log exp(z_i·k/T) / Σ_{k' ∈ {k_i} ∪ Q} exp(z_i·k'/T),

    where z is the projection of the network's features and k that of the encoder's. In `<name>_classes` the products
    are those of the class's vector `[w_c, b_c]`, held constant, with the row's `[f_i, 1]` and with the `[f', 1]` in the
    queues. All vectors have length 1. The authors' queues start with random keys; here empty places do not count. Key
    and query come from the same input. With microbatches each part sees the keys of the parts before it.

    Args:
      net: the network that is trained.
      weight: weight of both terms, a number or a function of the step.
      width: output width of the projection, whose kernel is the parameter `<name>/kernel`.
      size: K, the number of keys that are kept per class.
      momentum: m, in [0, 1).
      temperature: T > 0.
      feature: the name of the backbone's feature, [batch, width].
      head: the path of the linear classifier, with `kernel` [width of the feature, classes] and optionally `bias`.
      name: name of the terms, of the parameters, and of the statistics with the encoder and the queues.

    Returns:
      A term for `finetune(net, loss, terms)`; its view has integer labels [batch]. Rows do not count whose label
      is not a class or is to be ignored, or whose weight is 0.

    Raises:
      ValueError: for numbers out of range; at init, if `name` is taken or the classifier is missing; while tracing, for
        a feature that is not a matrix.

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> net = jtl.network(backbone=jtl.backbones.mlp((8,)), head=jtl.heads.linear(3))
      >>> objective = jtl.finetune(net, terms=[jtl.finetuning.bi_tuning_queue(net, width=4, size=5)])
      >>> batch = {"x": jnp.zeros((4, 5)), "y": jnp.zeros(4, int)}
      >>> objective.init(jax.random.key(0), batch).stats["bi_tuning"]["rows"].shape
      (3, 5, 4)

    Zhong et al., Bi-tuning of Pre-trained Representations, 2020, arXiv 2011.06182.
    """
    checked(weight, name)
    if not temperature > 0 or width < 1 or size < 1 or not 0 <= momentum < 1:
        raise ValueError(
            f"{name}: temperature={temperature}, width={width}, size={size}: all are positive; momentum={momentum} lies"
            " in [0, 1)"
        )
    backbone = parts_of(net)["backbone"]

    def own(params: Params) -> Params:
        return {part: params[part] for part in ("backbone", name)}

    def vectors(params: Params) -> Array:
        flat = flatten(params)
        kernel = flat.get(f"{head}/kernel")
        if kernel is None or kernel.ndim != 2:
            matrices = [path for path, a in flat.items() if jnp.ndim(a) == 2 and path.endswith("kernel")]
            raise ValueError(f"{name}: head={head!r} has no kernel [width, classes]; there are {matrices}")
        bias = flat.get(f"{head}/bias", jnp.zeros(kernel.shape[1], kernel.dtype))
        return unit_rows(jnp.concatenate([kernel, bias[None]]).T)

    def both(params: Params, f: Array) -> tuple[Array, Array]:
        f = f.astype(jnp.promote_types(f.dtype, jnp.float32))
        rows = unit_rows(f @ params[name]["kernel"].astype(f.dtype))
        return rows, unit_rows(jnp.concatenate([f, jnp.ones((len(f), 1), f.dtype)], 1))

    def run(params: Params, stats: Stats, views: Views, key: Key | None, step: Any) -> tuple[Any, Aux]:
        needs(views, ("source",), name)
        view, state = views["source"], stats[name]
        averaged = cast_floating(state["encoder"], dtype_of(params))
        x = ops.without_masked(view.x, view.mask)
        dropout = None if key is None else rng.stream(key, name)
        variables = Variables(averaged["backbone"], stats.get("backbone", {}))
        with scope.within("backbone"):  # frozen modules run as they do for the queries
            seen = backbone.apply(variables, x, train=key is not None, key=dropout)[0]
        z, h = both(params, vectors_of(view.features, feature, name))
        z_key, h_key = jax.lax.stop_gradient(both(averaged, vectors_of(seen, feature, name)))
        y = classes_of_rows(view.y, name)
        w = jax.lax.stop_gradient(vectors(params))
        classes, filled = len(w), state["count"]
        inside = (y >= 0) & (y < classes)
        kept = inside & ops.kept(view.mask, len(y)) & weighed(view, len(y))
        c = jnp.where(inside, y, 0)
        places = jnp.arange(size)[None] < filled[:, None]
        keys = jnp.einsum("bd,ckd->bck", z, state["rows"]), jnp.einsum("bd,ckd->bck", w[c], state["features"])
        current = (z * z_key).sum(1), (h * w[c]).sum(1)
        terms = {}
        for term, mine, others in zip(("rows", "classes"), current, keys, strict=True):
            values = _against_keys(mine / temperature, others / temperature, c, places)
            terms[f"{name}_{term}"] = weighted(mean(values, kept), weight, step)
        if key is None:
            return terms, Aux(stats)
        gathered = tuple(ops.gather(a) for a in (z_key, h_key, c, kept))
        return terms, Aux({**stats, name: _pushed(state, *gathered)})

    def init(key: Key, views: Views, given: Variables = NONE) -> Variables:
        needs(views, ("source",), name)
        f, params = vectors_of(views["source"].features, feature, name), given.params
        if name not in params:
            draw = jax.nn.initializers.lecun_normal()
            params = {**params, name: {"kernel": draw(rng.stream(key, name), (f.shape[1], width))}}
        classes, wide = vectors(params).shape
        empty = {
            "rows": jnp.zeros((classes, size, params[name]["kernel"].shape[1])),
            "features": jnp.zeros((classes, size, wide)),
            "count": jnp.zeros(classes, jnp.int32),
            "encoder": upcast(own(params)),
        }
        return with_own(given._replace(params=params), name, empty)

    def commit(stats: Stats, params: Params) -> Stats:
        moved = optax.incremental_update(upcast(own(params)), stats[name]["encoder"], 1 - momentum)
        return {**stats, name: {**stats[name], "encoder": moved}}

    return Objective(run, init, commit)


def _against_keys(
    own: Float[Array, "batch"],
    others: Float[Array, "batch classes size"],
    c: Int[Array, "batch"],
    places: Bool[Array, "classes size"],
) -> Float[Array, "batch"]:
    """`−mean_{own and keys of class c} log softmax` over the own score and the scores of all filled places."""
    scores = jnp.where(places[None], others, -jnp.inf)
    whole = jax.nn.logsumexp(jnp.concatenate([own[:, None], scores.reshape(len(own), -1)], 1), axis=1)
    positive = (c[:, None] == jnp.arange(len(places))[None])[..., None] & places[None]
    total = own + jnp.where(positive, others, 0.0).sum((1, 2))
    return whole - total / (1 + positive.sum((1, 2)))


def _pushed(
    state: dict[str, Any],
    z: Float[Array, "batch width"],
    h: Float[Array, "batch wide"],
    c: Int[Array, "batch"],
    kept: Bool[Array, "batch"],
) -> dict[str, Any]:
    """The queues with the kept rows in place of the oldest keys of each class; `count` counts all keys so far."""
    classes, size = state["rows"].shape[:2]
    mine = (c[:, None] == jnp.arange(classes)[None]) & kept[:, None]
    before = (jnp.cumsum(mine, 0) - mine)[jnp.arange(len(c)), c]
    more = mine.sum(0, dtype=state["count"].dtype)
    last = kept & (before >= more[c] - size)  # if a class has more than K rows, the last K
    place = jnp.where(last, c, classes), (state["count"][c] + before) % size
    return {
        **state,
        "rows": state["rows"].at[place].set(z.astype(state["rows"].dtype), mode="drop"),
        "features": state["features"].at[place].set(h.astype(state["features"].dtype), mode="drop"),
        "count": state["count"] + more,
    }
