"""Simple CNAPS: the distance to class means in the metric of each class's covariance."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jtl.checked import positive
from jtl.heads import Reads, reading
from jtl.methods.meta.memory import memory_of
from jtl.methods.meta.prototypes import present
from jtl.model import Model, Variables
from jtl.typing import Key, Output, Stats


def mahalanobis(*, strength: float = 1.0, reads: Reads = "pooled") -> Model:
    """The classifier of Simple CNAPS: logits `−(z − μ_k)ᵀ Q_k⁻¹ (z − μ_k)`, `Q_k = λ_k Σ_k + (1 − λ_k) Σ + β I`.

    μ_k and Σ_k are the mean and the covariance of the support of class k, of n_k examples, Σ the covariance of all
    support, and `λ_k = n_k / (n_k + 1)`. Covariances divide by n − 1, and that of one example is 0; the authors' code
    has the variance over its features in every entry instead. With weights of rows, n is their sum, so weights count
    examples: fractions that add up to little more than 1 make a covariance too large. The paper's logits have a factor
    ½, which the authors' code lacks, as this does. Use it with `memorise`; it has no parameters. A class without
    support gets probability 0.

    Args:
      strength: β > 0.
      reads: which features are compared; one matrix [features, features] is factorised per class.

    Raises:
      ValueError: for a strength that is not positive and finite; when called, without a memory.

    Example:
      >>> import jtl
      >>> net = jtl.network(backbone=jtl.backbones.conv4(64, downsample="pool"), head=jtl.learners.mahalanobis())
      >>> objective = jtl.meta(jtl.learners.memorise(net, way=5), jtl.finetune(net))

    Bateni et al., Improved Few-Shot Visual Classification, 2019, arXiv 1912.03432.
    """
    positive(strength=strength)

    def init(key: Key, x: Any) -> Variables:
        del key, x
        return Variables({}, {})

    def apply(variables: Variables, x: Any, *, train: bool, key: Key | None = None) -> tuple[Output, Stats]:
        del train, key
        z, member = memory_of(variables.params)
        q = x.astype(z.dtype)
        _, shared = _moments(z, member.sum(1))
        mean, own = jax.vmap(_moments, (None, 1))(z, member)
        n = member.sum(0)[:, None, None]
        share = n / (n + 1)
        metric = share * own + (1 - share) * shared[None] + strength * jnp.eye(z.shape[1], dtype=z.dtype)[None]
        apart = q[None] - mean[:, None]  # [way, queries, features]
        factor = jnp.linalg.cholesky(metric)
        scaled = jax.scipy.linalg.solve_triangular(factor, apart.mT, lower=True)
        logits = -jnp.square(scaled).sum(1).T
        return jnp.where(present(member)[None], logits, -jnp.inf), variables.stats

    return reading(Model(init, apply), reads)


def _moments(z: Float[Array, "rows features"], weight: Float[Array, " rows"]) -> tuple[Array, Array]:
    """The mean and the covariance of weighted rows; 0 if they are too few."""
    count = weight.sum()
    mean = weight @ z / jnp.maximum(count, 1e-30)
    apart = z - mean[None]
    scatter = jnp.matmul((weight[:, None] * apart).T, apart, precision="highest")
    return mean, jnp.where(count > 1, scatter / jnp.where(count > 1, count - 1, 1), 0)
