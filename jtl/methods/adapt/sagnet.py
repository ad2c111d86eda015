"""Style-agnostic networks: the head learns content under random styles, and features that tell no class by style."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jtl import losses, rng
from jtl._tracing import scope
from jtl.methods.adapt.beside import beside
from jtl.methods.adapt.joined_rows import joined_rows, names_of_some, told_of
from jtl.methods.adapt.views import ignoring, look
from jtl.methods.finetune.finetune import ACCURACY
from jtl.methods.terms import at_step, checked
from jtl.methods.views import needs
from jtl.metrics.accumulate import Metric, mean
from jtl.model import Model, Variables
from jtl.networks import only_head, part
from jtl.objective import NONE, Objective, complete
from jtl.typing import Aux, Batch, Key, Params, Schedule, Stats

EPS = 1e-5
"""Added to variances, as in the authors' code."""


def sagnet(
    net: Model,
    style: Model,
    domains: Sequence[str],
    loss: Callable = losses.cross_entropy,
    *,
    weight: float | Schedule = 0.1,
    ignore: int | None = None,
    metrics: Mapping[str, Callable | Metric] = ACCURACY,
    name: str = "style",
) -> Objective:
    """The sum of three means over rows i: `ℓ(h(SR f_i), y_i) + ℓ(s(CR f_i), y_i) − λ mean_k log softmax(s(CR f_i))_k`.

    With the mean μ and the variance v of the entries of a vector f, and another row f' of the batch,
    `SR f = √v̂ (f − μ)/√v + μ̂` has the row's content in a mixed style: `μ̂ = α μ + (1 − α) μ'`, `v̂ = α v + (1 − α) v'`,
    `α ~ U(0, 1)`. `CR f = √v (f' − μ')/√v' + μ` has its style with another row's content, which is held constant.

    The first term trains the network. The second trains s alone, to tell the class by the style. The third trains the
    features alone, so that s cannot.

    This is DomainBed's form, on the vector that the head reads; the paper has channels of a map halfway, and copies the
    layers after it for s. Both take the three steps in turn, here they are one step on the same parameters. In
    evaluation the network is the plain one.

    Rows are mixed with rows that count, of all domains. With microbatches, or under `pmap`, these are of the same part.

    Args:
      net: `jtl.network(backbone=..., head=...)`, with one head h that reads a vector.
      style: s, a model like the head, such as `jtl.heads.linear(classes)`. It is given what the head reads.
      domains: the views' names; one is enough.
      loss: one value per row.
      weight: λ, a number or a function of the step.
      ignore: as in `finetune`.
      metrics: metrics of each domain, as in `finetune`, on outputs of unmixed features; they are reported as
        `<domain>/<metric>`.
      name: name of the parameters of s and of its term; the others are `<name>_content` and `<name>_adversary`.

    Returns:
      An objective on batches `{domain: {"x", "y", "mask"}, ...}` with three terms.

    Raises:
      ValueError: for no domains, a weight that is negative or not finite, or a network with other heads than one; while
        tracing, for a domain that is missing or has no labels of classes, a head that reads no vector of two entries or
        more, or an s whose logits are not as many as the head's; at `init`, for a name that a part of the network has.

    Example:
      >>> import jtl
      >>> net = jtl.network(backbone=jtl.backbones.mlp((8,)), head=jtl.heads.linear(3))
      >>> objective = jtl.alignments.sagnet(net, jtl.heads.linear(3), ("photo", "sketch"))

    Nam et al., Reducing Domain Gap by Reducing Style Bias, 2019, arXiv 1910.11645.
    """
    checked(weight, name)
    names, (of_head, head) = names_of_some(domains, name), only_head(net, name)

    def run(params: Params, stats: Stats, batch: Batch, key: Key, step: Any) -> tuple[dict, Aux]:
        views, new = look(net, params, stats, batch, key)
        views = ignoring(views, ignore)
        rows = joined_rows(head, views, names, name)
        if rows.f.shape[1] < 2:
            raise ValueError(f"{name}: the head reads {rows.f.shape[1]} entry per row; one has no variance")
        f = rows.f.astype(jnp.promote_types(rows.f.dtype, jnp.float32))
        one, two = (rng.stream(key, f"{name}/{what}") for what in ("content", "style"))
        share = jax.random.uniform(jax.random.fold_in(one, 1), (len(f),), f.dtype)
        mixed = restyled(f, share, partners(one, rows.weights > 0)).astype(rows.f.dtype)
        other = recontented(f, partners(two, rows.weights > 0)).astype(rows.f.dtype)

        def called(model: Model, of: str, params: Params, f: Array) -> tuple[Array, Stats]:
            with scope.within(of):
                return model.apply(
                    part(Variables(params, stats), of), f, train=True, key=rng.stream(key, f"{name}/{of}")
                )

        z, _ = called(head, of_head, params, mixed)
        told, after = called(style, name, params, jax.lax.stop_gradient(other))
        against, _ = called(style, name, jax.lax.stop_gradient(params), other)
        if told.ndim != 2 or told.shape != z.shape:
            raise ValueError(
                f"{name}: s gives {told.shape} and the head {z.shape}; both must be logits [batch, classes]"
            )
        wide = against.astype(jnp.promote_types(against.dtype, jnp.float32))
        values = -jax.nn.log_softmax(wide).mean(1)
        terms = {
            f"{name}_content": mean(loss(z, rows.y), rows.weights),
            name: mean(loss(told, rows.y), rows.weights),
            f"{name}_adversary": mean(values, rows.weights).scale(at_step(weight, step)),
        }
        outputs = {d: view.output for d, view in views.items()}
        new = {**new, name: after} if after else new
        return terms, Aux(new, told_of(views, names, metrics), outputs)

    def init(key: Key, batch: Batch, given: Variables = NONE) -> Variables:
        needs(batch, names, name)
        model = style._replace(reads=head.reads)
        return complete(beside(net, model, name), key, batch[names[0]]["x"], given)

    return Objective(run, init, classes=net.classes)


def partners(key: Key, kept: Bool[Array, "batch"]) -> Int[Array, "batch"]:
    """A random permutation of the rows that are kept; the others stay in their place.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jtl.methods.adapt.sagnet import partners
      >>> partners(jax.random.key(0), jnp.array([False, True, False])).tolist()
      [0, 1, 2]
    """
    drawn = jnp.where(kept, jax.random.uniform(key, kept.shape), jnp.inf)
    order = jnp.argsort(drawn)  # the rows that are kept, in a random order, and then the others
    return jnp.where(kept, order[jnp.cumsum(kept) - 1], jnp.arange(len(kept)))


def restyled(f: Float[Array, "batch width"], share: Float[Array, "batch"], order: Int[Array, "batch"]) -> Array:
    """`SR f`: each row with a mixture of its style and another row's.

    Args:
      f: the features.
      share: α, of the row's own style.
      order: the number of the other row.

    Example:
      >>> import jax.numpy as jnp
      >>> from jtl.methods.adapt.sagnet import restyled
      >>> f = jnp.array([[1.0, 3.0], [50.0, 10.0]])
      >>> restyled(f, jnp.array([0.0, 1.0]), jnp.array([1, 0])).round(2).tolist()
      [[10.0, 50.0], [50.0, 10.0]]
    """
    middle, variance = _style(f)
    a = share[:, None]
    scale = jnp.sqrt(a * variance + (1 - a) * variance[order] + EPS)
    return (f - middle) / jnp.sqrt(variance + EPS) * scale + a * middle + (1 - a) * middle[order]


def recontented(f: Float[Array, "batch width"], order: Int[Array, "batch"]) -> Array:
    """`CR f`: another row's content, held constant, in each row's style.

    Args:
      f: the features.
      order: the number of the other row.

    Example:
      >>> import jax.numpy as jnp
      >>> from jtl.methods.adapt.sagnet import recontented
      >>> recontented(jnp.array([[1.0, 3.0], [50.0, 10.0]]), jnp.array([1, 0])).round(2).tolist()
      [[3.0, 1.0], [10.0, 50.0]]
    """
    middle, variance = _style(f)
    content = jax.lax.stop_gradient((f - middle) / jnp.sqrt(variance + EPS))
    return content[order] * jnp.sqrt(variance + EPS) + middle


def _style(f: Array) -> tuple[Array, Array]:
    """The mean and the variance, with n − 1, of the entries of each row, [batch, 1]."""
    return f.mean(1, keepdims=True), f.var(1, keepdims=True, ddof=1)
