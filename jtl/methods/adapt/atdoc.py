"""ATDOC: labels each row of the target by the stored predictions of its neighbours, not by the source's classifier."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jtl import checked, losses, ops
from jtl.methods.adapt.source_free.rows import refuse_views, rows_of
from jtl.methods.terms import checked as check_weight
from jtl.methods.terms import kept_or_new, row_features, row_logits, view_of, weighted
from jtl.methods.views import Views
from jtl.metrics.accumulate import mean
from jtl.model import Variables
from jtl.objective import NONE, Objective
from jtl.typing import Aux, Key, Params, Schedule, Stats


def atdoc(
    rows: int,
    weight: float | Schedule = 0.2,
    *,
    neighbours: int = 5,
    feature: str = "pooled",
    view: str = "target",
    name: str = "atdoc",
) -> Objective:
    """The alignment `λ Σ_i w_i · −log p_iŷ_i / Σ_i w_i`, `ŷ_i = argmax_c q_ic`, `w_i = max_c q_ic` (ATDOC-NA).

    `q_i = 1/K Σ_{j∈N_i} p̂_j` is the mean of the stored predictions of the K rows whose stored features are nearest to
    row i's by cosine; a row is not its own neighbour. A batch stores its rows' `f / ‖f‖` and their sharpened
    predictions `p̂_ic = p_ic² / Σ_j p_jc²`, with j over the rows of the batch: so a class that is predicted often gets
    no advantage. The labels come from what was stored before the batch, and are held constant. Rows that were in no
    batch so far are no neighbours, where the authors store random features. The authors store what the network predicts
    after its step, in evaluation mode; here it is what the step itself has seen.

    Early predictions are wrong: the authors' λ grows in proportion to the step, to 0.2 at the end.

    Args:
      rows: the number of the target's examples.
      weight: λ, a number or a function of the step.
      neighbours: K, less than `rows`.
      feature: the name of the backbone's feature, [batch, width]; the authors take what the classifier reads.
      view: the view that is labelled. Its y is the ROW of each example in the target, `arange(rows)`, not a label:
        `target = jtl.data.arrays(x, np.arange(len(x)), ...)`, and `jtl.data.pair(source, target, target_labels=True)`
        keeps it.
      name: of the term, and of the memory in the statistics.

    Returns:
      An alignment for `adapt` with the metric `<name>_agrees`, the fraction of rows that the network predicts as their
      neighbours say.

    Raises:
      ValueError: for an invalid weight, neighbours below 1, or not more rows than neighbours; at init, where `name` is
        taken; while tracing, for a missing view or feature, or y that are no rows.

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> net = jtl.network(backbone=jtl.backbones.mlp((8,)), head=jtl.heads.linear(3))
      >>> objective = jtl.adapt(net, alignments=[jtl.alignments.atdoc(100, lambda step: 0.2 * step / 1000)])
      >>> x = jnp.zeros((4, 5))
      >>> batch = {"source": {"x": x, "y": jnp.zeros(4, int)}, "target": {"x": x, "y": jnp.array([7, 0, 99, 31])}}
      >>> variables = objective.init(jax.random.key(0), batch)
      >>> {part: a.shape for part, a in variables.stats["atdoc"].items()}
      {'features': (100, 8), 'predictions': (100, 3)}

    Liang et al., Domain Adaptation with Auxiliary Target Domain-Oriented Classifier, 2021, arXiv 2007.04171.
    """
    checked.whole(1, neighbours=neighbours)
    checked.whole(neighbours + 1, rows=rows)
    check_weight(weight, name)

    def run(params: Params, stats: Stats, views: Views, key: Key | None, step: Any) -> tuple[Any, Aux]:
        del params, key
        (f, kept), (z, _) = row_features(views, view, feature, name), row_logits(views, view, name)
        places, bank = rows_of(view_of(views, view, name).y, name, view), stats[name]
        f, p = jax.lax.stop_gradient((f, jax.nn.softmax(z)))
        f = f / jnp.maximum(jnp.linalg.norm(f, axis=1, keepdims=True), 1e-12)
        said = neighbours_say(f, places, bank["features"], bank["predictions"], neighbours)
        chosen, sure = said.argmax(1), said.max(1)
        value = mean(losses.cross_entropy(z, chosen), kept, sure)
        metrics = {f"{name}_agrees": mean(z.argmax(1) == chosen, kept & (sure > 0))}
        at = jnp.where(kept & (places >= 0), places, rows)  # at `rows` they are dropped
        f, p, at, kept = map(ops.gather, (f, p, at, kept))
        bank = {
            "features": bank["features"].at[at].set(f.astype(bank["features"].dtype), mode="drop"),
            "predictions": bank["predictions"].at[at].set(sharpened(p, kept).astype(f.dtype), mode="drop"),
        }
        return {name: weighted(value, weight, step)}, Aux({**stats, name: bank}, metrics)

    def init(key: Key, views: Views, given: Variables = NONE) -> Variables:
        del key
        refuse_views(view_of(views, view, name), rows, name, view)
        f, z = jax.eval_shape(
            lambda seen: (row_features(seen, view, feature, name)[0], row_logits(seen, view, name)[0]), views
        )
        start = {"features": jnp.zeros((rows, f.shape[1])), "predictions": jnp.zeros((rows, z.shape[1]))}
        return kept_or_new(given, name, start)

    return Objective(run, init)


def neighbours_say(
    features: Float[Array, "batch width"],
    places: Int[Array, " batch"],
    bank: Float[Array, "rows width"],
    predictions: Float[Array, "rows classes"],
    neighbours: int,
) -> Float[Array, "batch classes"]:
    """The mean of the stored predictions of each row's nearest other rows, by the product of features.

    Args:
      features: of the rows, of unit length.
      places: their rows in the bank.
      bank: stored features.
      predictions: stored predictions; a row of zeros was not stored and is no neighbour.
      neighbours: K. A row that has fewer neighbours counts the others as zeros.

    Example:
      >>> import jax.numpy as jnp
      >>> from jtl.methods.adapt.atdoc import neighbours_say
      >>> bank, said = jnp.eye(3), jnp.array([[1.0, 0.0], [0.25, 0.75], [0.0, 0.0]])
      >>> neighbours_say(bank[:1], jnp.array([0]), bank, said, 1).tolist()
      [[0.25, 0.75]]
    """
    similar = jnp.matmul(features, bank.T, precision="highest")
    others = jnp.arange(len(bank))[None] != places[:, None]
    near, at = jax.lax.top_k(jnp.where(others & (predictions > 0).any(1)[None], similar, -jnp.inf), neighbours)
    return jnp.where(jnp.isfinite(near)[..., None], predictions[at], 0.0).sum(1) / neighbours


def sharpened(p: Float[Array, "batch classes"], kept: Any) -> Float[Array, "batch classes"]:
    """`p_ic² / Σ_j p_jc²` over the rows j that count.

    Example:
      >>> import jax.numpy as jnp
      >>> from jtl.methods.adapt.atdoc import sharpened
      >>> sharpened(jnp.array([[0.5, 0.5], [0.5, 0.5], [9.0, 9.0]]), jnp.array([True, True, False]))[:2].tolist()
      [[0.5, 0.5], [0.5, 0.5]]
    """
    squares = jnp.where(kept[:, None], p, 0.0) ** 2
    return squares / jnp.maximum(squares.sum(0), jnp.finfo(p.dtype).tiny)[None]
