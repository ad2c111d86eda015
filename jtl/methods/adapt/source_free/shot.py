"""SHOT: adapts to a target without the source data, with a fixed classifier and pseudo-labels from centroids."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from jtl import losses, ops
from jtl.methods.adapt.source_free.rows import refuse_labels, refuse_missing, rows_of
from jtl.methods.near import near
from jtl.methods.terms import clean
from jtl.metrics.accumulate import mean
from jtl.metrics.certainty import diversity, entropy
from jtl.model import Model, Variables
from jtl.objective import NONE, Objective, complete
from jtl.typing import Aux, Batch, Key, Params, Stats

NAME = "shot"


def shot(net: Model, rows: int, *, weight: float = 0.3) -> Objective:
    """The objective `mean_i H(p_i) − H(mean_i p_i) + β mean_i −log p_i[ŷ_i]`, with ŷ the pseudo-labels of all rows.

    The source's classifier stays fixed: train `select("backbone/.*")`, and the layers of a bottleneck. The
    pseudo-labels are kept in the statistics, so a resumed run has them. `pseudo_labels` computes them, by
    `fit(..., refresh=Refresh(pseudo_labels(net, target), every=...))`. Without a refresh they are -1, and the third
    term is 0 (SHOT-IM).

    Args:
      net: `jtl.network(backbone=..., head=...)` whose head reads one vector per row, with the source's weights.
      rows: number of target examples.
      weight: β; the authors use 0.1 for digits and 0.3 otherwise.

    Returns:
      An objective on batches `{"x", "y", "mask"}` in which y is the ROW of the example, `arange(rows)`, not a label:
      `jtl.data.arrays(x, np.arange(len(x)), ...)`.

    Raises:
      ValueError: for rows below 1, or a weight below 0; at init, if the batch shows that its y are not rows; while
        tracing, for y that are not integers [batch].

    Example:
      >>> import jax, numpy as np, jtl
      >>> net = jtl.network(backbone=jtl.backbones.mlp((8,)), head=jtl.heads.linear(3))
      >>> x = np.random.default_rng(0).normal(size=(12, 5)).astype(np.float32)
      >>> target = jtl.data.arrays(x, np.arange(12), batch_size=6)
      >>> objective = jtl.source_free.shot(net, rows=12)
      >>> refresh = jtl.Refresh(jtl.source_free.pseudo_labels(net, target), every=2)
      >>> objective.init(jax.random.key(0), target[0]).stats["shot"].shape
      (12,)

    Liang et al., Do We Really Need to Access the Source Data?, 2020, arXiv 2002.08546.
    """
    if rows < 1:
        raise ValueError(f"rows={rows}: the target has at least one example")
    if not weight >= 0:
        raise ValueError(f"weight={weight}: it is not negative")

    def run(params: Params, stats: Stats, batch: Batch, key: Key, step: Any) -> tuple[dict, Aux]:
        del step
        labels, mask = stats[NAME], batch.get("mask")
        x = ops.without_masked(batch["x"], mask)
        out, moved = net.apply(Variables(params, _own(stats)), x, train=True, key=key)
        logits, kept = clean(out.output, mask)
        places = rows_of(batch.get("y"), NAME)
        y = labels.at[jnp.where(places < 0, rows, places)].get(mode="fill", fill_value=-1)
        known = (y >= 0) & kept
        terms = {
            "entropy": mean(entropy(logits), kept),
            "diversity": mean(-diversity(ops.gather(logits), ops.gather(kept))),
            "pseudo": mean(losses.cross_entropy(logits, jnp.maximum(y, 0)), known).scale(weight),
        }
        return terms, Aux({**moved, NAME: labels}, {}, {"output": out.output, "read": out.read})

    def init(key: Key, batch: Batch, given: Variables = NONE) -> Variables:
        refuse_labels(batch.get("y"), rows, NAME, batch.get("mask"))
        made = complete(net.init, key, batch["x"], given)
        return made._replace(stats={NAME: jnp.full(rows, -1, jnp.int32), **made.stats})

    return Objective(run, init)


def pseudo_labels(net: Model, target: Any) -> Callable[[Any], Any]:
    """A function of a state for `Refresh`, which replaces SHOT's pseudo-labels with those of the current network.

    They are `argmax_c cos([f_i, 1], c_c)` with centroids c from two rounds, as in `centroid_labels`.

    Args:
      net: the network of `shot`.
      target: batches `{"x", "y", "mask"}` of the target, y the row of each example; `len(target)` batches are one
        epoch, which must hold every row.

    Raises:
      ValueError: when run, if a row of the target is in none of the batches, or one of theirs does not exist.

    Example:
      >>> import numpy as np, jtl
      >>> net = jtl.network(backbone=jtl.backbones.identity(), head=jtl.heads.linear(3))
      >>> target = jtl.data.arrays(np.ones((6, 5), np.float32), np.arange(6), batch_size=3)
      >>> refresh = jtl.Refresh(jtl.source_free.pseudo_labels(net, target), every=len(target))

    Liang et al., Do We Really Need to Access the Source Data?, 2020, arXiv 2002.08546, section 3.2.
    """

    @jax.jit
    def look(variables: Variables, x: Any) -> tuple[Any, Any]:
        out, _ = net.apply(variables, x, train=False)
        return out.read, out.output

    def run(state: Any) -> Any:
        labels = np.asarray(state.stats[NAME])
        variables = Variables(state.params, _own(state.stats))
        put = near(variables)
        reads, logits, places = [], [], []
        for i in range(len(target)):
            batch = target[i]
            kept = np.ones(len(batch["y"]), bool) if batch.get("mask") is None else np.asarray(batch["mask"]) > 0
            read, z = (np.asarray(a) for a in look(variables, put(batch["x"])))
            reads.append(read[kept])
            logits.append(z[kept])
            places.append(np.asarray(batch["y"])[kept])
        rows = np.concatenate(places)
        refuse_missing(len(labels), rows)
        new = labels.copy()
        new[rows] = centroid_labels(np.concatenate(reads), np.concatenate(logits))
        return state._replace(stats={**state.stats, NAME: jnp.asarray(new)})

    return run


def centroid_labels(
    features: Float[np.ndarray, "rows dim"], logits: Float[np.ndarray, "rows classes"]
) -> Int[np.ndarray, " rows"]:
    """SHOT's pseudo-labels: each row's nearest centroid by cosine, in two rounds.

    With `g_i = [f_i; 1] / ‖[f_i; 1]‖`, the first centroids are `c_k = Σ_i p_ik g_i / Σ_i p_ik`, and each row gets the
    label of the nearest one. The second centroids are the means of the rows with each label. In the first round a class
    has no centroid if it is predicted for no row; in the second, if it is the nearest to no row.

    Args:
      features: the features that the classifier reads.
      logits: its logits.

    Example:
      >>> import numpy as np, jtl
      >>> f = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
      >>> jtl.source_free.centroid_labels(f, 9 * f).tolist()
      [0, 0, 1]

    Liang et al., Do We Really Need to Access the Source Data?, 2020, arXiv 2002.08546, section 3.2.
    """
    f, z = np.asarray(features, np.float64), np.asarray(logits, np.float64)
    g = np.column_stack([f, np.ones(len(f))])
    g /= np.linalg.norm(g, axis=1, keepdims=True)
    e = np.exp(z - z.max(1, keepdims=True))
    share = e / e.sum(1, keepdims=True)
    labels = z.argmax(1)
    for _ in range(2):
        there = np.unique(labels)
        centres = share.T @ g / (1e-8 + share.sum(0))[:, None]
        centres = centres[there] / np.maximum(np.linalg.norm(centres[there], axis=1, keepdims=True), 1e-12)
        labels = there[(g @ centres.T).argmax(1)]
        share = np.eye(z.shape[1])[labels]
    return labels.astype(np.int32)


def _own(stats: Stats) -> Stats:
    return {name: part for name, part in stats.items() if name != NAME}
