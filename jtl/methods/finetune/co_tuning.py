"""Co-Tuning: also trains the pretrained head, on the source classes that correspond to each new class."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int

from jtl.losses import cross_entropy
from jtl.methods.finetune.on_features import logistic_regression
from jtl.methods.terms import checked, weighed, weighted, with_own
from jtl.methods.views import Views, needs
from jtl.metrics.accumulate import mean
from jtl.model import Variables
from jtl.objective import NONE, Objective
from jtl.typing import Aux, Key, Params, Schedule, Stats

PENALTIES = tuple(10.0**-power for power in range(-4, 5))


def co_tuning(
    relationship: Float[ArrayLike, "target_classes source_classes"],
    weight: float | Schedule = 2.3,
    *,
    temperature: float = 1.0,
    head: str = "source",
    name: str = "co_tuning",
) -> Objective:
    """The term `−λ mean_i Σ_s p(s given y_i) log q_i(s)` with `q = softmax(z/T)` from the head of the source classes.

    The network keeps the pretrained head in addition to the new one, `network(backbone=..., head=new, source=old)`, and
    the supervised loss reads the new one, as in the example.

    Args:
      relationship: `p(s given t)`, rows that sum to 1, as `category_relationship` returns; kept in the statistics.
      weight: λ, a number or a function of the step.
      temperature: T > 0, the temperature of the relationship. The authors' code uses 1, because ImageNet's head is
        nearly calibrated. With a wrong T, a head that is overconfident on the new data first learns to flatten its
        predictions, which damages the features if there are few steps.
      head: the name of the pretrained head.
      name: name of the term.

    Returns:
      A term for `finetune(net, loss, terms)`, or an alignment for `adapt`. In `adapt` it uses the view `source` alone
      and does not read a target's labels. Rows do not count whose label is not a class or is to be ignored, or whose
      weight is 0.

    Raises:
      ValueError: for a weight that is negative or not finite, a temperature that is not positive, or rows that are not
        distributions; at init, if `name` is taken; while tracing, if there is no view `source` with labels, or if the
        network has no such head or one with another number of classes.

    Example:
      >>> import jax.numpy as jnp, jtl
      >>> net = jtl.network(backbone=jtl.backbones.mlp((8,)), head=jtl.heads.linear(2), source=jtl.heads.linear(3))
      >>> term = jtl.finetuning.co_tuning(jnp.array([[1.0, 0.0, 0.0], [0.0, 0.5, 0.5]]))
      >>> loss = lambda z, y: jtl.losses.cross_entropy(z["head"], y)
      >>> objective = jtl.finetune(net, loss, [term], metrics={})

    You et al., Co-Tuning for Transfer Learning, 2020.
    """
    table = np.asarray(relationship, np.float32)
    checked(weight, name)
    if not temperature > 0:
        raise ValueError(f"{name}: temperature={temperature}: it must be positive")
    if table.ndim != 2 or not (table >= 0).all() or not np.allclose(table.sum(1), 1, atol=1e-3):
        raise ValueError(f"{name}: the relationship of shape {table.shape} must have rows >= 0 that sum to 1")

    def run(params: Params, stats: Stats, views: Views, key: Key | None, step: Any) -> tuple[Any, Aux]:
        del params, key
        needs(views, ("source",), name)
        view = views["source"]
        if view.y is None:
            raise ValueError(f"{name}: the view 'source' has no labels: give the batch integers y [batch]")
        z = view.output.get(head) if isinstance(view.output, dict) else None
        if z is None or z.shape[-1] != table.shape[1]:
            has = jax.tree.map(jnp.shape, view.output)
            raise ValueError(f"{name}: 'source' needs a head {head!r} of {table.shape[1]} classes, and has {has}")
        y = jnp.asarray(view.y)
        y = y.astype(jnp.promote_types(y.dtype, jnp.int32))  # a number of classes may not fit 8-bit labels
        if y.shape[1:] == table.shape[:1]:  # distributions, such as those of mixed batches
            inside, target = None, jnp.matmul(y.astype(table.dtype), stats[name], precision="highest")
        else:
            inside = (y >= 0) & (y < table.shape[0])
            if y.ndim == 1:
                inside &= weighed(view, len(y))
            target = stats[name][jnp.where(inside, y, 0)]
        log_q = jax.nn.log_softmax(z.astype(jnp.promote_types(z.dtype, jnp.float32)) / temperature)
        return {name: weighted(mean(-(target * log_q).sum(-1), view.mask, inside), weight, step)}, Aux(stats)

    def init(key: Key, views: Views, given: Variables = NONE) -> Variables:
        del key, views
        return with_own(given, name, table)

    return Objective(run, init)


def category_relationship(
    logits: Float[ArrayLike, "examples source_classes"],
    y: Int[ArrayLike, "examples"],
    *,
    classes: int,
    temperature: float = 1.0,
    validation: tuple[Any, Any] | None = None,
) -> Array:
    """The relationship `p(s given t)` of source classes s to each new class t.

    Without validation data it is computed directly, as the mean of the calibrated predictions `softmax(z/T)` over the
    examples of t. With validation data it is computed in reverse: a logistic regression on those predictions gives
    `p(t given s)`, and Bayes' rule `p(s given t) ∝ p(t given s) p(s)` with p(s) the mean prediction. The penalty of the
    regression is that of the lowest cross-entropy on the validation data; the authors' code uses accuracy, in which
    strong penalties tie with weak ones.

    Args:
      logits: logits of the pretrained network's own head on the new training data.
      y: the new labels in [0, classes).
      classes: number of new classes.
      temperature: T > 0, the calibration temperature (`calibrated_temperature` on validation data of the source); use
        the same one in `co_tuning`.
      validation: logits and labels held out of the training data, for the reverse computation.

    Returns:
      [classes, source classes], rows that sum to 1.

    Raises:
      ValueError: for a temperature that is not positive, lengths that differ, or a class without examples.

    Example:
      >>> import numpy as np, jtl
      >>> z = np.log(np.array([[0.8, 0.2], [0.6, 0.4], [0.1, 0.9]], np.float32))
      >>> found = jtl.finetuning.category_relationship(z, np.array([0, 0, 1]), classes=2)
      >>> [[round(p, 2) for p in row] for row in found.tolist()]
      [[0.7, 0.3], [0.1, 0.9]]

    You et al., Co-Tuning for Transfer Learning, 2020.
    """
    z, y = np.asarray(logits, np.float32), np.asarray(y)
    if not temperature > 0 or z.ndim != 2 or y.shape != z.shape[:1]:
        raise ValueError(f"temperature={temperature}, logits {z.shape}, labels {y.shape}: positive, and one a row")
    counts = np.bincount(y, minlength=classes)
    if len(counts) > classes or not (counts > 0).all():
        raise ValueError(f"examples of each class: {counts.tolist()}, and classes={classes}: give all classes some")
    p = jax.nn.softmax(jnp.asarray(z) / temperature)
    if validation is None:
        return jax.ops.segment_sum(p, jnp.asarray(y), classes) / jnp.asarray(counts, p.dtype)[:, None]
    held = jax.nn.softmax(jnp.asarray(validation[0]) / temperature)
    fits = [logistic_regression(p, y, penalty, classes=classes) for penalty in PENALTIES]
    fitted = min(fits, key=lambda fit: float(cross_entropy(fit(held), np.asarray(validation[1])).mean()))
    given_source = jax.nn.softmax(fitted.kernel + fitted.bias[None])  # for certainty about one source class
    joint = (given_source * jnp.concatenate([p, held]).mean(0)[:, None]).T
    return joint / joint.sum(1, keepdims=True)


def calibrated_temperature(
    logits: Float[ArrayLike, "examples classes"], y: Int[ArrayLike, "examples"], *, most: float = 20.0
) -> float:
    """The temperature `T = argmin −mean_i log softmax(z_i / T)_{y_i}` in [1/most, most].

    Raises:
      ValueError: if there is not one label per row, or for a `most` of 1 or less.

    Example:
      >>> import numpy as np, jtl
      >>> z = np.array([[2.0, 0.0]] * 4, np.float32)
      >>> round(jtl.finetuning.calibrated_temperature(z, np.array([0, 0, 0, 1])), 2)
      1.82

    Guo et al., On Calibration of Modern Neural Networks, 2017, arXiv 1706.04599.
    """
    z, y = jnp.asarray(logits, jnp.float32), jnp.asarray(y)
    if z.ndim != 2 or y.shape != z.shape[:1] or not len(y) or not most > 1:
        raise ValueError(f"logits {z.shape}, labels {y.shape}, most={most}: one label a row, and most above 1")

    end = jnp.log(jnp.float32(most))
    low, high = _halved(z, y, -end, end)
    return float(jnp.exp(-(low + high) / 2))


@jax.jit
def _halved(z: Any, y: Any, low: Any, high: Any) -> tuple[Any, Any]:
    """Bounds on the `log 1/T` of lowest loss, after halving their interval 40 times."""

    def slope(log_beta: Any) -> Any:  # in 1/T the loss is convex, so its slope changes sign once
        beta = jnp.exp(log_beta)
        chosen = jnp.take_along_axis(z, y[:, None], 1)[:, 0]
        return ((jax.nn.softmax(beta * z) * z).sum(1) - chosen).mean()

    def halve(_: Any, bounds: Any) -> Any:
        low, high = bounds
        middle = (low + high) / 2
        rises = slope(middle) > 0
        return jnp.where(rises, low, middle), jnp.where(rises, middle, high)

    return jax.lax.fori_loop(0, 40, halve, (low, high))
