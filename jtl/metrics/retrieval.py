"""How well a search ranks the relevant items, over all queries on the host."""

from typing import Any

import numpy as np


def retrieval(scores: Any, relevant: Any, *, k: int = 10) -> dict[str, float]:
    """Recall at k, the mean reciprocal rank and nDCG at k, each a mean over the queries.

    `recall@k` is the share of the relevant items that are among the first k, `mrr` is `1 / rank` of the first relevant
    item, and `ndcg@k` is `Σ_{r≤k} g_r / log₂(r + 1)` over the same sum for the best order, with g_r the gain of the
    item at rank r. Items are ranked by falling score; equal scores keep their order. A query without a relevant item
    does not count.

    Args:
      scores: [queries, items], such as `queries @ items.T` of embeddings of length 1.
      relevant: [queries, items], 0 for irrelevant items; 1, or a larger gain, for relevant items.
      k: the number of items to look at; at least 1.

    Raises:
      ValueError: for shapes that differ, a NaN, a negative gain, `k` below 1, or no relevant item at all.

    Example:
      >>> import jtl
      >>> found = jtl.metrics.retrieval([[0.9, 0.8, 0.1], [0.2, 0.3, 0.7]], [[0, 1, 0], [0, 0, 1]], k=1)
      >>> found["recall@1"], found["mrr"]
      (0.5, 0.75)

    Järvelin and Kekäläinen, Cumulated Gain-Based Evaluation of IR Techniques, 2002 (nDCG).
    """
    scores, gains = np.asarray(scores, np.float64), np.asarray(relevant, np.float64)
    if scores.ndim != 2 or scores.shape != gains.shape:
        raise ValueError(f"scores of shape {scores.shape} and relevant of {gains.shape}: give both [queries, items]")
    if k < 1:
        raise ValueError(f"k={k}: give at least 1 item")
    for name, bad in (("a score is NaN", np.isnan(scores)), ("a gain is no number of at least 0", ~(gains >= 0))):
        if bad.any():
            raise ValueError(f"{name} in query {int(np.flatnonzero(bad.any(1))[0])}")
    there = (gains > 0).any(1)
    if not there.any():
        raise ValueError("no query has a relevant item: there is nothing to find")
    scores, gains = scores[there], gains[there]
    found = np.take_along_axis(gains, np.argsort(-scores, axis=1, kind="stable"), 1)
    best = -np.sort(-gains, axis=1)
    discount = 1 / np.log2(np.arange(2, min(k, gains.shape[1]) + 2))
    dcg, ideal = ((ranked[:, :k] * discount).sum(1) for ranked in (found, best))
    recall = (found[:, :k] > 0).sum(1) / (gains > 0).sum(1)
    first = (found > 0).argmax(1) + 1
    each = {f"recall@{k}": recall, "mrr": 1 / first, f"ndcg@{k}": dcg / ideal}
    return {name: float(values.mean()) for name, values in each.items()}
