"""Quantile risk minimisation over several labelled domains: the loss is a quantile of their risks."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from statistics import NormalDist
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jtl import checked, losses, ops
from jtl.methods.adapt.views import ignoring, look
from jtl.methods.adapt.vrex import checked as names_of
from jtl.methods.adapt.vrex import counted, labelled, risk_of
from jtl.methods.finetune.finetune import ACCURACY
from jtl.methods.terms import whole
from jtl.methods.views import needs
from jtl.metrics.accumulate import Mean, Metric, measure
from jtl.model import Model, Variables
from jtl.objective import NONE, Objective, complete
from jtl.typing import Aux, Batch, Key, Params, Stats


def eqrm(
    net: Model,
    domains: Sequence[str],
    loss: Callable = losses.cross_entropy,
    *,
    alpha: float = 0.75,
    burn_in: int = 0,
    ignore: int | None = None,
    metrics: Mapping[str, Callable | Metric] = ACCURACY,
    name: str = "eqrm",
) -> Objective:
    """The α-quantile of the risks `R_d` of labelled domains d: the v with `(1/D) Σ_d Φ((v − R_d) / h) = α`.

    It is the quantile of a Gaussian kernel density estimate with the bandwidth `h = 1.06 s D^(−1/5)`, s the standard
    deviation of the risks (divisor D − 1). So it is above the largest risk if α is near 1, and then it decreases most
    where the risks become equal. Equal risks have it as their value.

    A domain without rows in a batch is left out. With microbatches it is the quantile within each part, and parts are
    weighted by their rows. The gradient is that of the quantile. The authors' code finds the same value by bisection
    and differentiates the ends of its interval: with three domains or more, risks between the smallest and the largest
    reach its gradient through h alone.

    Args:
      net: `jtl.network(backbone=..., head=...)`.
      domains: the views' names, two or more.
      loss: one value per row.
      alpha: α in (0, 1). For an α too near 1, a negative number is `ln(1 − α)`, and the objective is the authors'
        approximation `mean_d R_d + h √(−2 ln(1 − α))`; they use −1000, for instance.
      burn_in: number of steps at the start in which the objective is the mean of the risks. The optimizer should then
        restart, because its moments are those of another loss: `jtl.optim.restarted`.
      ignore: as in `finetune`.
      metrics: metrics of each domain, as in `finetune`; they are reported as `<domain>/<metric>`.
      name: name of the term.

    Returns:
      An objective on batches `{domain: {"x", "y", "mask"}, ...}` with one term; the metric `<domain>/risk` is a
      domain's mean loss.

    Raises:
      ValueError: for fewer than two domains, an alpha or a burn-in out of range; while tracing, for a domain that is
        missing or has no labels.

    Example:
      >>> import jtl, optax
      >>> net = jtl.network(backbone=jtl.backbones.mlp((8,)), head=jtl.heads.linear(3))
      >>> objective = jtl.alignments.eqrm(net, ("photo", "sketch"), alpha=0.9, burn_in=2500)
      >>> step = jtl.make_step(objective, jtl.optim.restarted(optax.adam(1e-4), at=[2500]))

    Eastwood et al., Probable Domain Generalization via Quantile Risk Minimization, 2022, arXiv 2207.09944.
    """
    names = names_of(domains)
    _checked(alpha)
    checked.whole(0, burn_in=burn_in)

    def run(params: Params, stats: Stats, batch: Batch, key: Key, step: Any) -> tuple[dict, Aux]:
        views, stats = look(net, params, stats, batch, key)
        views = ignoring(views, ignore)
        risks = {d: risk_of(views, d, loss) for d in names}
        r = jnp.stack([whole(m) for m in risks.values()])
        seen = jnp.stack([ops.batch_sum(m.count) > 0 for m in risks.values()])
        value = quantile(r, seen, alpha)
        if burn_in:
            value = jnp.where(step < burn_in, jnp.where(seen, r, 0.0).sum() / jnp.maximum(seen.sum(), 1), value)
        rows = jnp.stack([m.count for m in risks.values()]).sum()
        found: dict[str, Any] = {}
        for d in names:
            view = labelled(views, d)
            found |= {
                f"{d}/{n}": measure(metric, view.output, view.y, counted(view), name=n) for n, metric in metrics.items()
            }
            found[f"{d}/risk"] = risks[d]
        return {name: Mean(value * rows, rows)}, Aux(stats, found, {d: view.output for d, view in views.items()})

    def init(key: Key, batch: Batch, given: Variables = NONE) -> Variables:
        needs(batch, names, name)
        return complete(net.init, key, batch[names[0]]["x"], given)

    return Objective(run, init, classes=net.classes)


def quantile(risks: Float[Array, "domains"], seen: Bool[Array, "domains"], alpha: float) -> Array:
    """The quantile of `eqrm` of the risks that are seen; 0 if there are none.

    Example:
      >>> import jax.numpy as jnp
      >>> from jtl.methods.adapt.eqrm import quantile
      >>> risks, seen = jnp.array([1.0, 3.0, 9.0]), jnp.array([True, True, False])
      >>> [round(float(quantile(risks, seen, alpha)), 4) for alpha in (0.5, 0.99, -1000.0)]
      [2.0, 5.6846, 60.362]
    """
    n = jnp.maximum(seen.sum(), 1).astype(risks.dtype)
    middle = jnp.where(seen, risks, 0.0).sum() / n
    gaps = jnp.where(seen, risks - middle[None], 0.0)
    variance = (gaps**2).sum() / jnp.maximum(n - 1, 1.0)
    apart = variance > 0  # the root's derivative at 0 is infinite
    h = 1.06 * jnp.sqrt(jnp.where(apart, variance, 1.0)) * n**-0.2
    far = math.sqrt(-2 * alpha) if alpha < 0 else _standard(gaps / h, seen, alpha)
    return middle + jnp.where(apart, h * far, 0.0)


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def _standard(u: Array, seen: Array, alpha: float) -> Array:
    """The x with `mean Φ(x − u) = α`, by bisection on the logarithm of the smaller tail, which keeps its digits."""
    upper = alpha > 0.5
    tail = math.log1p(-alpha) if upper else math.log(alpha)
    at = NormalDist().inv_cdf(alpha)

    def above(x: Array) -> Array:
        """Whether x is above the quantile."""
        logs = jax.scipy.special.log_ndtr(u - x[None] if upper else x[None] - u)
        found = jax.nn.logsumexp(logs, where=seen) - jnp.log(seen.sum().astype(u.dtype))
        return found < tail if upper else found > tail

    def halved(_: Any, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        x = (low + high) / 2
        return jnp.where(above(x), low, x), jnp.where(above(x), x, high)

    ends = jnp.where(seen, u, jnp.inf).min() + at, jnp.where(seen, u, -jnp.inf).max() + at
    low, high = jax.lax.fori_loop(0, 64, halved, ends)
    return (low + high) / 2


@_standard.defjvp
def _standard_tangent(alpha: float, primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    u, seen = primals
    x = _standard(u, seen, alpha)
    shares = jax.nn.softmax(-((x[None] - u) ** 2) / 2, where=seen)
    return x, (shares * tangents[0]).sum()


def _checked(alpha: Any) -> None:
    if checked.real(alpha) and -math.inf < alpha < 0:
        return
    if not checked.real(alpha) or not 0 < alpha < 1:
        raise ValueError(f"alpha={alpha}: give a quantile in (0, 1), or the negative ln(1 − alpha) of one near 1")
