"""NRC: adapts to a target without the source data, by making near neighbours agree."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jtl import ops
from jtl.methods.adapt.source_free.rows import refuse_labels, refuse_missing, rows_of
from jtl.methods.near import near
from jtl.methods.terms import clean
from jtl.metrics.accumulate import mean
from jtl.metrics.certainty import diversity
from jtl.model import Model, Variables
from jtl.objective import NONE, Objective, complete
from jtl.typing import Aux, Batch, Key, Params, Stats

NAME = "nrc"


def nrc(net: Model, rows: int, *, neighbours: int = 3, expanded: int = 3, affinity: float = 0.1) -> Objective:
    """The objective `−mean_i Σ_{k∈N_i} A_ik S_k·p_i − r mean_i Σ_{k∈N_i} Σ_{m∈E_k} S_m·p_i − H(mean_i p_i)`.

    N_i are the K target rows nearest to i by the cosine of features, and E_k the M rows nearest to k. A_ik is 1 if i is
    among the M rows nearest to k (reciprocal neighbours), else r. S_k is the stored prediction of row k, held constant.
    The statistics keep the features and predictions of all rows; each batch replaces those of its own rows. Initialise
    them with `memory`.

    Args:
      net: `jtl.network(backbone=..., head=...)` whose head reads one vector per row, with the source's weights.
      rows: number of target examples.
      neighbours: K.
      expanded: M.
      affinity: r.

    Returns:
      An objective on batches `{"x", "y", "mask"}` in which y is the ROW of the example, `arange(rows)`, not a label.

    Raises:
      ValueError: if there are not more rows than neighbours, or for numbers of neighbours below 1; at init, if the
        batch shows that its y are not rows; while tracing, for y that are not integers [batch].

    Example:
      >>> import jax, numpy as np, jtl
      >>> net = jtl.network(backbone=jtl.backbones.mlp((8,)), head=jtl.heads.linear(3))
      >>> x = np.random.default_rng(0).normal(size=(12, 5)).astype(np.float32)
      >>> target = jtl.data.arrays(x, np.arange(12), batch_size=6)
      >>> objective = jtl.source_free.nrc(net, rows=12)
      >>> variables = objective.init(jax.random.key(0), target[0])
      >>> variables = jtl.source_free.memory(net, variables, target)

    Yang et al., Exploiting the Intrinsic Neighborhood Structure for Source-free Domain Adaptation, 2021, arXiv
    2110.04202.
    """
    if neighbours < 1 or expanded < 1 or rows <= max(neighbours, expanded):
        raise ValueError(
            f"rows={rows}, neighbours={neighbours}, expanded={expanded}: at least 1 neighbour each, and more rows"
        )

    def run(params: Params, stats: Stats, batch: Batch, key: Key, step: Any) -> tuple[dict, Aux]:
        del step
        own = {name: part for name, part in stats.items() if name != NAME}
        x = ops.without_masked(batch["x"], batch.get("mask"))
        out, moved = net.apply(Variables(params, own), x, train=True, key=key)
        (logits, mask), (read, _) = (clean(a, batch.get("mask")) for a in (out.output, out.read))
        p, places = jax.nn.softmax(logits.astype(jnp.float32)), rows_of(batch.get("y"), NAME)
        features = _unit(jax.lax.stop_gradient(read).astype(jnp.float32))
        rows_of_all = map(ops.gather, (places, mask, features, jax.lax.stop_gradient(p)))
        bank = _replaced(stats[NAME], *rows_of_all)  # every device keeps the same bank
        near, far, back = neighbours_of(features, bank["features"], places, neighbours, expanded)
        weights = jnp.where(back, 1.0, affinity)
        first = jnp.einsum("bkc,bc,bk->b", bank["predictions"][near], p, weights)
        second = affinity * jnp.einsum("bkmc,bc->b", bank["predictions"][far], p)
        terms = {
            "neighbours": mean(-first, mask),
            "expanded": mean(-second, mask),
            "diversity": mean(-diversity(ops.gather(logits), ops.gather(mask))),
        }
        return terms, Aux({**moved, NAME: bank}, {}, {"output": out.output, "read": out.read})

    def init(key: Key, batch: Batch, given: Variables = NONE) -> Variables:
        refuse_labels(batch.get("y"), rows, NAME, batch.get("mask"))
        made = complete(net.init, key, batch["x"], given)
        out = jax.eval_shape(lambda v: net.apply(v, batch["x"], train=False)[0], made)
        bank = {
            "features": jnp.zeros((rows, out.read.shape[1])),
            "predictions": jnp.full((rows, out.output.shape[1]), 1 / out.output.shape[1]),
        }
        return made._replace(stats={NAME: bank, **made.stats})

    return Objective(run, init)


def memory(net: Model, variables: Variables, target: Any) -> Variables:
    """The variables with `f_i / ‖f_i‖` and `p_i = softmax(z_i)` of all rows in evaluation mode, from which `nrc`
    starts.

    Args:
      net: the network of `nrc`.
      variables: the variables that the `init` of `nrc` returns.
      target: batches `{"x", "y", "mask"}`, y the row of each example; `len(target)` batches together hold every row.

    Raises:
      ValueError: if a row of the target is in none of the batches, or one of theirs does not exist.

    Example:
      >>> import jax, numpy as np, jtl
      >>> net = jtl.network(backbone=jtl.backbones.identity(), head=jtl.heads.linear(3))
      >>> target = jtl.data.arrays(np.ones((6, 5), np.float32), np.arange(6), batch_size=3)
      >>> variables = jtl.source_free.nrc(net, rows=6, neighbours=2).init(jax.random.key(0), target[0])
      >>> variables = jtl.source_free.memory(net, variables, target)
      >>> {name: a.shape for name, a in variables.stats["nrc"].items()}
      {'features': (6, 5), 'predictions': (6, 3)}

    Yang et al., Exploiting the Intrinsic Neighborhood Structure for Source-free Domain Adaptation, 2021, arXiv
    2110.04202.
    """
    own = Variables(variables.params, {name: part for name, part in variables.stats.items() if name != NAME})
    own = jax.device_put(own)  # once, because each call would copy NumPy arrays

    @jax.jit
    def add(own: Variables, bank: Any, batch: Any) -> Any:
        out, _ = net.apply(own, batch["x"], train=False)
        mask = jnp.ones(len(out.output), bool) if batch.get("mask") is None else batch["mask"] > 0
        p = jax.nn.softmax(out.output.astype(jnp.float32))
        return _replaced(bank, rows_of(batch.get("y"), "memory"), mask, _unit(out.read.astype(jnp.float32)), p)

    put, bank, places = near(own), variables.stats[NAME], []
    for i in range(len(target)):
        batch = target[i]
        places.append(np.asarray(batch["y"])[... if batch.get("mask") is None else np.asarray(batch["mask"]) > 0])
        bank = add(own, bank, put(batch))
    refuse_missing(len(bank["features"]), np.concatenate(places))
    return variables._replace(stats={**variables.stats, NAME: bank})


def neighbours_of(
    features: Float[Array, "batch dim"],
    bank: Float[Array, "rows dim"],
    places: Int[Array, " batch"],
    near: int,
    far: int,
) -> tuple[Int[Array, "batch near"], Int[Array, "batch near far"], Bool[Array, "batch near"]]:
    """Each batch row's nearest rows, the rows nearest to those, and whether these include the batch row.

    A row is not its own neighbour.

    Example:
      >>> import jax.numpy as jnp
      >>> from jtl.methods.adapt.source_free.nrc import neighbours_of
      >>> bank = jnp.array([[1.0, 0.0], [0.9, 0.4], [0.0, 1.0]])
      >>> found, theirs, back = neighbours_of(bank[:1], bank, jnp.array([0]), 1, 1)
      >>> found.tolist(), theirs.tolist(), back.tolist()
      ([[1]], [[[0]]], [[True]])
    """

    def nearest(f: Array, own: Array, count: int) -> Array:
        similar = f @ bank.T
        similar = jnp.where(jnp.arange(len(bank))[None] == own[:, None], -jnp.inf, similar)
        return jax.lax.top_k(similar, count)[1]

    found = nearest(features, places, near)
    flat = found.reshape(-1)
    theirs = nearest(bank[flat], flat, far).reshape(*found.shape, far)
    return found, theirs, (theirs == places[:, None, None]).any(-1)


def _replaced(bank: Any, places: Array, mask: Array, features: Array, predictions: Array) -> Any:
    """The bank with a batch's rows replaced; masked ones get an index out of bounds, so they are dropped."""
    at = jnp.where(mask & (places >= 0), places, len(bank["features"]))
    return {
        "features": bank["features"].at[at].set(features, mode="drop"),
        "predictions": bank["predictions"].at[at].set(predictions, mode="drop"),
    }


def _unit(f: Array) -> Array:
    return f / jnp.maximum(jnp.linalg.norm(f, axis=1, keepdims=True), 1e-12)
