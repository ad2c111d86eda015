"""Class clustering: whether the clusters of the target's features match the predicted classes."""

from math import lgamma

import numpy as np
from jaxtyping import Float, Shaped

from jtl.selection.checked import rows as checked


def class_clustering(features: Float[np.ndarray, "rows dim"], logits: Float[np.ndarray, "rows classes"]) -> float:
    """The adjusted mutual information of predicted classes and k-means clusters of normalised features.

    Clusters start at the means of the predicted classes, so the result is deterministic; there are as many clusters as
    predicted classes. If only one class is predicted, the result is 0, so that a collapsed network gets no good score.

    Raises:
      ValueError: for arrays that are not finite, are empty, or differ in their number of rows.

    Example:
      >>> import numpy as np, jtl
      >>> f = np.array([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]])
      >>> round(jtl.selection.validators.class_clustering(f, 9 * f), 4)
      1.0

    Musgrave et al., Three New Validators and a Large-Scale Benchmark Ranking for Unsupervised Domain Adaptation, 2022,
    arXiv 2208.07360.
    """
    f = checked("features", features)
    z = checked("logits", logits, len(f))
    f = f / np.maximum(np.linalg.norm(f, axis=1, keepdims=True), 1e-12)
    _, predicted = np.unique(z.argmax(1), return_inverse=True)
    if predicted.max() == 0:
        return 0.0
    centres = np.stack([f[predicted == c].mean(0) for c in range(predicted.max() + 1)])
    labels = predicted
    for _ in range(300):
        distances = (centres**2).sum(1) - 2 * f @ centres.T
        found = distances.argmin(1)
        if np.array_equal(found, labels) and _ > 0:
            break
        labels = found
        centres = np.stack([f[labels == c].mean(0) if (labels == c).any() else m for c, m in enumerate(centres)])
    return adjusted_mutual_information(predicted, labels)


def adjusted_mutual_information(a: Shaped[np.ndarray, " rows"], b: Shaped[np.ndarray, " rows"]) -> float:
    """`(I(a, b) − E I) / ((H(a) + H(b)) / 2 − E I)`, with the expectation over random labels with the same counts.

    It is 1 for equal partitions and 0 on average for random ones; two partitions with a single part each are equal.

    Raises:
      ValueError: for no rows, or different numbers of rows.

    Example:
      >>> import numpy as np, jtl
      >>> jtl.selection.validators.adjusted_mutual_information(np.array([0, 0, 1, 1]), np.array([1, 1, 0, 0]))
      1.0

    Vinh et al., Information Theoretic Measures for Clusterings Comparison, 2010.
    """
    if np.ndim(a) != 1 or np.shape(a) != np.shape(b) or not len(a):
        raise ValueError(f"a of shape {np.shape(a)} and b of shape {np.shape(b)}: give one of each for every row")
    _, a = np.unique(a, return_inverse=True)
    _, b = np.unique(b, return_inverse=True)
    table = np.zeros((a.max() + 1, b.max() + 1))
    np.add.at(table, (a, b), 1)
    rows, columns, n = table.sum(1), table.sum(0), len(a)
    if 1 == len(rows) == len(columns) or len(rows) == len(columns) == n:
        return 1.0
    full = table > 0
    information = np.sum(table[full] / n * np.log(n * table[full] / np.outer(rows, columns)[full]))
    expected = _expected(rows, columns, n)
    mean = (_entropy(rows / n) + _entropy(columns / n)) / 2
    denominator = mean - expected
    tiny = np.finfo(np.float64).eps
    return float((information - expected) / (min(denominator, -tiny) if denominator < 0 else max(denominator, tiny)))


def _entropy(p: np.ndarray) -> float:
    return float(-np.sum(p * np.log(p)))


def _expected(rows: np.ndarray, columns: np.ndarray, n: int) -> float:
    """The expected mutual information under the hypergeometric model."""
    log_factorial = np.array([lgamma(i + 1) for i in range(n + 1)])
    total = 0.0
    for i in rows.astype(int):
        for j in columns.astype(int):
            k = np.arange(max(1, i + j - n), min(i, j) + 1)
            log_p = (
                log_factorial[i] + log_factorial[j] + log_factorial[n - i] + log_factorial[n - j] - log_factorial[n]
                - log_factorial[k] - log_factorial[i - k] - log_factorial[j - k] - log_factorial[n - i - j + k]
            )  # fmt: skip
            total += float(np.sum(k / n * np.log(n * k / (i * j)) * np.exp(log_p)))
    return total
