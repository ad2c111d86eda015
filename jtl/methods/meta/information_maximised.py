"""TIM: prototypes that move until the queries of a task are classified confidently and evenly."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Integer, Shaped

from jtl.checked import positive, whole, within
from jtl.methods.meta.transductive import from_middle, task_of
from jtl.methods.terms import squared_distances


def information_maximised(
    support: Float[ArrayLike, "rows features"],
    y: Integer[ArrayLike, "rows"],
    queries: Float[ArrayLike, "queries features"],
    *,
    way: int,
    temperature: float = 15.0,
    supervised: float = 0.1,
    conditional: float = 0.1,
    balance: float = 1.0,
    steps: int = 150,
    weights: Shaped[ArrayLike, "rows"] | None = None,
    query_mask: Shaped[ArrayLike, "queries"] | None = None,
    centre: Float[ArrayLike, "features"] | None = None,
    normalise: bool = True,
) -> Float[Array, "queries way"]:
    """TIM-ADM: log-probabilities of the queries of a task, `p_ik ∝ exp(−τ/2 ‖z_i − w_k‖²)`, W from the class means.

    It minimises `λ CE(S) − β H(mean_i p_i) + α mean_i H(p_i)` over W, with the entropies over the queries. Each step
    sets labels q in closed form, `q_ik ∝ p_ik^{1+α} / (Σ_j p_jk^{1+α})^{β/(1+β)}`, and then every w_k:

    `w_k ← [ℓ Σ_S (y_ik z_i + p_ik (w_k − z_i)) + s Σ_Q (q_ik z_i + p_ik (w_k − z_i))] / [ℓ Σ_S y_ik + s Σ_Q q_ik]`,
    with `ℓ = λ/(1+α)` and `s = |S|/|Q|`.

    It is transductive: each result depends on all queries of the task. The term of β expects as many queries of each
    class; where classes differ much in size, a smaller β does less harm. `together` evaluates it over episodes;
    `jax.vmap` maps it over tasks.

    Args:
      support: features of the support set.
      y: its labels in [0, way). A label outside makes the result NaN, if the row counts.
      queries: features of all queries of the task.
      way: number of classes. A class without support gets probability 0.
      temperature: τ, positive.
      supervised: λ, the weight of the cross-entropy on the support set.
      conditional: α, the weight of the entropy of each query's prediction.
      balance: β, the weight of the entropy of the mean prediction; 1 in the paper, and 0 in its ablation.
      steps: number of updates; with 0 these are the probabilities by the class means.
      weights: weight or mask of each row of the support set; None for 1.
      query_mask: which queries count; the others have no effect, and their results mean nothing.
      centre: the mean of the base classes' features, which is subtracted; the paper subtracts none.
      normalise: scale all features to length 1, after subtracting the centre.

    Raises:
      ValueError: for numbers out of range, or arrays that do not fit each other.

    Example:
      >>> import jax.numpy as jnp, jtl
      >>> support, queries = jnp.array([[0.0], [1.0]]), jnp.array([[0.1], [0.3], [0.4], [0.45]])
      >>> for steps in (0, 150):
      ...     p = jtl.learners.information_maximised(
      ...         support, jnp.arange(2), queries, way=2, steps=steps, normalise=False
      ...     )
      ...     print(p.argmax(1).tolist())
      [0, 0, 0, 0]
      [0, 0, 1, 1]

    Boudiaf et al., Transductive Information Maximization For Few-Shot Learning, 2020, arXiv 2008.11297.
    """
    whole(1, way=way)
    whole(0, steps=steps)
    positive(temperature=temperature)
    within("[0, inf)", supervised=supervised, conditional=conditional, balance=balance)
    task = from_middle(task_of(support, y, queries, way, weights, query_mask, centre, normalise))
    z, member, q, kept, means, present = task
    here, there = member.sum(1)[:, None], kept[:, None]
    known, some = supervised / (1 + conditional), here.sum() / jnp.maximum(kept.sum(), 1)

    def log_p(rows: Array, w: Array) -> Array:
        return jax.nn.log_softmax(jnp.where(present[None], -temperature / 2 * squared_distances(rows, w), -jnp.inf))

    def step(w: Array, _: None) -> tuple[Array, None]:
        ps, log = here * jnp.exp(log_p(z, w)), log_p(q, w)
        pq = jnp.where(there, jnp.exp(log), 0)
        labels = jnp.where(there, jnp.exp(_labels(log, kept, present, conditional, balance)), 0)

        def part(given: Array, p: Array, rows: Array) -> Array:
            return given.T @ rows + w * p.sum(0)[:, None] - p.T @ rows

        above = known * part(member, ps, z) + some * part(labels, pq, q)
        below = known * member.sum(0) + some * labels.sum(0)
        moved = above / jnp.where(below > 0, below, 1)[:, None]
        return jnp.where((below > 0)[:, None], moved, w).astype(w.dtype), None

    return log_p(q, jax.lax.scan(step, means, None, steps)[0])


def _labels(log: Array, kept: Array, present: Array, conditional: float, balance: float) -> Array:
    """`log q`: each query's log-probabilities, sharpened, less the share of what its class has in total."""
    sharp = (1 + conditional) * jnp.where(present[None], log, 0)
    total = jax.nn.logsumexp(jnp.where(kept[:, None], sharp, -jnp.inf), 0)
    total = jnp.where(jnp.isfinite(total), total, 0)
    return jax.nn.log_softmax(jnp.where(present[None], sharp - balance / (1 + balance) * total[None], -jnp.inf))
