"""ATDOC with centres: labels each row of the target by the nearest of the target's own class centres."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Integer

from jtl import checked, losses, ops
from jtl.methods.terms import checked as check_weight
from jtl.methods.terms import kept_or_new, row_features, row_logits, weighted
from jtl.methods.views import Views
from jtl.metrics.accumulate import mean
from jtl.model import Variables
from jtl.objective import NONE, Objective
from jtl.typing import Aux, Key, Params, Schedule, Stats


def atdoc_nc(
    weight: float | Schedule = 0.1,
    *,
    momentum: float = 0.1,
    feature: str = "pooled",
    view: str = "target",
    name: str = "atdoc_nc",
) -> Objective:
    """The alignment `λ mean_i −log p_iŷ_i`, `ŷ_i = argmax_c cos(f_i, m_c)` (ATDOC-NC).

    m_c is the centre of class c on the target, kept in a memory: after each step `m_c ← (1 − γ) m_c + γ b_c`, where b_c
    is the mean feature of the step's rows that the network predicts as c. The labels come from the centres before the
    step, with microbatches too, and are held constant. Rows have no weights of confidence; those belong to the
    neighbours of `atdoc`. Unlike it, this one needs no numbers of rows and a memory of `classes · width` numbers.

    The first mean of a class is its first centre, and a class has no rows before; the authors begin with random
    centres. A class that no row is predicted as keeps its centre; the authors shrink it, which changes its next steps.
    The authors compute b_c after the step, in evaluation mode; here it is of what the step itself has seen.

    Early predictions are wrong: the authors' λ grows in proportion to the step, to 0.1 at the end.

    Args:
      weight: λ, a number or a function of the step.
      momentum: γ, in (0, 1].
      feature: the name of the backbone's feature, [batch, width]; the authors take what the classifier reads.
      view: the view that is labelled.
      name: of the term, and of the memory in the statistics.

    Returns:
      An alignment for `adapt` with the metric `<name>_agrees`, the fraction of rows that the network predicts as their
      centres say.

    Raises:
      ValueError: for a weight or a momentum out of range; at init, where `name` is taken; while tracing, for a missing
        view or feature.

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> net = jtl.network(backbone=jtl.backbones.mlp((8,)), head=jtl.heads.linear(3))
      >>> objective = jtl.adapt(net, alignments=[jtl.alignments.atdoc_nc(lambda step: 0.1 * step / 1000)])
      >>> x = jnp.zeros((4, 5))
      >>> batch = {"source": {"x": x, "y": jnp.zeros(4, int)}, "target": {"x": x}}
      >>> objective.init(jax.random.key(0), batch).stats["atdoc_nc"]["centres"].shape
      (3, 8)

    Liang et al., Domain Adaptation with Auxiliary Target Domain-Oriented Classifier, 2021, arXiv 2007.04171.
    """
    checked.within("(0, 1]", momentum=momentum)
    check_weight(weight, name)

    def run(params: Params, stats: Stats, views: Views, key: Key | None, step: Any) -> tuple[Any, Aux]:
        del params, key
        (f, kept), (z, _) = row_features(views, view, feature, name), row_logits(views, view, name)
        memory = stats[name]
        chosen, known = nearest_centre(jax.lax.stop_gradient(f), memory["centres"])
        counted = kept & known.any()
        own = jax.nn.one_hot(z.argmax(1), z.shape[1], dtype=f.dtype) * kept[:, None]
        sums = jnp.matmul(own.T, jax.lax.stop_gradient(f), precision="highest")
        found = ops.batch_sum({"sums": sums, "counts": own.sum(0)})
        added = {part: memory[part] + a.astype(memory[part].dtype) for part, a in found.items()}
        value = mean(losses.cross_entropy(z, chosen), counted)
        metrics = {f"{name}_agrees": mean(z.argmax(1) == chosen, counted)}
        return {name: weighted(value, weight, step)}, Aux({**stats, name: {**memory, **added}}, metrics)

    def init(key: Key, views: Views, given: Variables = NONE) -> Variables:
        del key
        f, z = jax.eval_shape(
            lambda seen: (row_features(seen, view, feature, name)[0], row_logits(seen, view, name)[0]), views
        )
        centres = jnp.zeros((z.shape[1], f.shape[1]))
        return kept_or_new(given, name, {"centres": centres, "sums": centres, "counts": jnp.zeros(z.shape[1])})

    def commit(stats: Stats, params: Params) -> Stats:
        del params
        memory = stats[name]
        moved = moved_centres(memory["centres"], memory["sums"], memory["counts"], momentum)
        empty = {part: jnp.zeros_like(memory[part]) for part in ("sums", "counts")}
        return {**stats, name: {"centres": moved, **empty}}

    return Objective(run, init, commit)


def nearest_centre(
    features: Float[Array, "batch width"], centres: Float[Array, "classes width"]
) -> tuple[Integer[Array, " batch"], Bool[Array, " classes"]]:
    """The class of the centre with the largest cosine for each row, and which classes have a centre.

    Args:
      features: rows.
      centres: one of zeros is none, and no row's nearest.

    Example:
      >>> import jax.numpy as jnp
      >>> from jtl.methods.adapt.atdoc_nc import nearest_centre
      >>> nearest_centre(jnp.array([[-1.0, 0.2]]), jnp.array([[0.0, 0.0], [9.0, 9.0], [0.0, 1.0]]))[0].tolist()
      [2]
    """
    known = (centres != 0).any(1)
    lengths = jnp.linalg.norm(centres, axis=1, keepdims=True)
    # The length of the row's own feature changes no order.
    similar = jnp.matmul(features, (centres / jnp.where(known[:, None], lengths, 1.0)).T, precision="highest")
    return jnp.where(known[None], similar, -jnp.inf).argmax(1), known


def moved_centres(
    centres: Float[Array, "classes width"],
    sums: Float[Array, "classes width"],
    counts: Float[Array, " classes"],
    momentum: float,
) -> Float[Array, "classes width"]:
    """`(1 − γ) m_c + γ b_c` with `b_c = sums_c / counts_c`; b_c for a class without a centre, m_c for one without rows.

    Example:
      >>> import jax.numpy as jnp
      >>> from jtl.methods.adapt.atdoc_nc import moved_centres
      >>> moved_centres(jnp.array([[0.0], [4.0], [4.0]]), jnp.array([[6.0], [6.0], [0.0]]), jnp.array([2, 2, 0.0]), 0.5)
      Array([[3. ],
             [3.5],
             [4. ]], dtype=float32)
    """
    means = sums / jnp.maximum(counts, 1)[:, None]
    known = (centres != 0).any(1)[:, None]
    moved = jnp.where(known, (1 - momentum) * centres + momentum * means, means)
    return jnp.where(counts[:, None] > 0, moved, centres)
