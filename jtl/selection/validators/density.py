"""Soft neighbourhood density: whether rows with similar predictions form dense clusters."""

import numpy as np
from jaxtyping import Float

from jtl.selection.validators.predictions import probabilities


def soft_neighbourhood_density(logits: Float[np.ndarray, "..."], temperature: float = 0.05, block: int = 1000) -> float:
    """The mean entropy of similarities, `mean_i H(softmax_{j≠i}(cos(p_i, p_j) / T))`; high if clusters are dense.

    Args:
      logits: logits of the target's rows, at least two.
      temperature: T.
      block: number of rows that are compared with all others at once; the memory is `8 · block · rows` bytes.

    Raises:
      ValueError: for fewer than two rows, or a temperature that is not positive.

    Example:
      >>> import numpy as np, jtl
      >>> snd = jtl.selection.validators.soft_neighbourhood_density
      >>> round(snd(np.array([[50.0, 0.0]] * 3)), 4)  # ln 2: two neighbours, as near as each other
      0.6931

    Saito et al., Tune it the Right Way: Unsupervised Validation of Domain Adaptation via Soft Neighborhood Density,
    2021, arXiv 2108.10860.
    """
    if not temperature > 0:
        raise ValueError(f"temperature={temperature}: it is positive")
    p = probabilities(logits)[0]
    if len(p) < 2:
        raise ValueError("one row has no neighbour: give at least two")
    p /= np.linalg.norm(p, axis=1, keepdims=True)
    total = 0.0
    for start in range(0, len(p), block):
        part = p[start : start + block]
        z = part @ p.T / temperature
        z[np.arange(len(part)), start + np.arange(len(part))] = -np.inf
        z -= z.max(1, keepdims=True)
        e = np.exp(z)
        q = e / e.sum(1, keepdims=True)
        total -= np.sum(np.where(q > 0, q * np.log(np.where(q > 0, q, 1)), 0))
    return float(total / len(p))
