"""MixVal: whether predictions on mixed inputs agree with those on their parts."""

from collections.abc import Callable
from typing import Any

import numpy as np

from jtl.selection.checked import rows


def mixval(predict: Callable[[Any], Any], x: np.ndarray, *, share: float = 0.55, seed: int = 0) -> dict[str, float]:
    """The shares of mixed rows `λ x_i + (1 − λ) x_j` that get the same prediction as x_i, within and across classes.

    Each row is mixed once with a random row of the same predicted class, and once with a row of another class.

    Args:
      predict: a function from rows [n, ...] to logits [n, classes].
      x: the target's inputs as floats: mix pixels, not token ids.
      share: λ, above 0.5, so that x_i is the larger part.
      seed: seed for the random pairs.

    Returns:
      "within" and "across", both high for a good model; rank models by the mean of their two ranks. A score without any
      pairs, such as "across" with a single predicted class, is 0.

    Raises:
      ValueError: for a share outside (0.5, 1), integer inputs, or logits that are not finite or do not fit the rows.

    Example:
      >>> import numpy as np, jtl
      >>> x = np.array([[2.0, 0.0], [3.0, 0.0], [0.0, 2.0], [0.0, 3.0]])
      >>> jtl.selection.validators.mixval(lambda x: x, x)["within"]
      1.0

    Hu et al., Mixed Samples as Probes for Unsupervised Model Selection in Domain Adaptation, 2023.
    """
    if not 0.5 < share < 1:
        raise ValueError(f"share={share}: the larger part of a mixed row is above 0.5 and below 1")
    if not np.issubdtype(np.asarray(x).dtype, np.floating):
        raise ValueError(f"x is of {np.asarray(x).dtype}: give floats, which can be mixed")
    draw = np.random.default_rng(seed)
    labels = rows("logits", predict(x), len(x)).argmax(1)
    found = {}
    for name, same in (("within", True), ("across", False)):
        pairs = []
        for i, label in enumerate(labels):
            others = np.flatnonzero((labels == label) == same)
            others = others[others != i]
            if len(others):
                pairs.append((i, draw.choice(others)))
        if not pairs:
            found[name] = 0.0
            continue
        first, second = np.array(pairs).T
        mixed = share * x[first] + (1 - share) * x[second]
        hits = rows("logits of mixed rows", predict(mixed.astype(x.dtype)), len(mixed)).argmax(1) == labels[first]
        found[name] = float(hits.mean())
    return found
