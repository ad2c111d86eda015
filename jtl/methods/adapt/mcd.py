"""Maximum classifier discrepancy: two heads are made to disagree on target rows, and the features to prevent it."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jtl import losses, ops, rng
from jtl._tracing import scope
from jtl.methods.adapt.beside import beside
from jtl.methods.adapt.dann import DOMAINS
from jtl.methods.adapt.views import look
from jtl.methods.finetune.finetune import ACCURACY, judged
from jtl.methods.views import needs
from jtl.metrics.accumulate import Mean, Metric, as_terms, mean
from jtl.model import Model, Variables
from jtl.networks import part
from jtl.objective import NONE, Objective, complete
from jtl.typing import Aux, Batch, Key, Params, Stats


def mcd(
    net: Model,
    second: Model,
    loss: Callable = losses.cross_entropy,
    *,
    metrics: Mapping[str, Callable | Metric] = ACCURACY,
    ignore: int | None = None,
    name: str = "second",
) -> tuple[Objective, Objective, Objective]:
    """Maximum classifier discrepancy, as three objectives that take turns on one batch.

    Let d be the mean over target rows of `mean_c |softmax(h_1 f)_c − softmax(h_2 f)_c|`, and
    `L = Σ_k mean_source ℓ(h_k f, y)`. The first objective, for all parameters, minimises L; the second, for the two
    heads, `L − d`; the third, for the backbone, d, four times per step in the paper. Two heads with equal
    initialisation would have no discrepancy, so each is drawn from its own key.

    Args:
      net: `jtl.network(backbone=..., head=...)`; its head is the first head.
      second: another head with as many classes, usually of the same kind.
      loss: one value per row, or per pixel for heads of maps, such as those of `jtl.tasks.segmentation`; d is then a
        mean over pixels.
      metrics: metrics of the first head on the source, as in `finetune`.
      ignore: as in `finetune`.
      name: name of the second head's parameters.

    Returns:
      The objectives of the three turns on batches `{"source": {"x", "y"}, "target": {"x"}}`. All have the same `init`.
      Their terms are `first` and `<name>` (L) and `discrepancy` (−d or d), each in the objectives that minimise it.

    Raises:
      ValueError: while tracing, if the source has no labels, or the outputs of the heads differ in shape or have one
        class.

    Example:
      >>> import jtl, optax
      >>> net = jtl.network(backbone=jtl.backbones.mlp((8,)), head=jtl.heads.linear(3))
      >>> fit, apart, close = jtl.alignments.mcd(net, jtl.heads.linear(3))
      >>> step = jtl.make_step(
      ...     [jtl.Turn(fit, by=(0, 1)), jtl.Turn(apart, by=(1,)), jtl.Turn(close, by=(0,), repeat=4)],
      ...     [optax.adam(1e-3), optax.adam(1e-3)],
      ...     trainable=[jtl.select("backbone/.*"), jtl.select("head/.*", "second/.*")],
      ... )

    Saito et al., Maximum Classifier Discrepancy for Unsupervised Domain Adaptation, 2018, arXiv 1712.02560.
    """

    def turn(supervised: bool, sign: float) -> Callable:
        def run(params: Params, stats: Stats, batch: Batch, key: Key, step: Any) -> tuple[dict, Aux]:
            del step
            needs(batch, DOMAINS, name)
            views, stats = look(net, params, stats, batch, key)
            source, target = (views[domain] for domain in DOMAINS)
            read = [ops.without_masked(second.reads(v.features, v.x), v.mask) for v in (source, target)]
            joint = jax.tree.map(lambda *rows: jnp.concatenate(rows), *read)
            with scope.within(name):
                own = part(Variables(params, stats), name)
                others, new = second.apply(own, joint, train=True, key=rng.stream(key, name))
            n = source.output.shape[0]
            if others[n:].shape != target.output.shape or target.output.shape[-1] < 2:
                raise ValueError(
                    f"mcd: the heads return {target.output.shape} and {others[n:].shape} for the target; give both as"
                    " many classes, two or more"
                )
            stats = {**stats, **({name: new} if new else {})}
            terms: dict[str, Mean] = {}
            found: dict[str, Any] = {}
            if supervised:
                if source.y is None:
                    raise ValueError("mcd: the batch has no labels of 'source'")
                rows = {**source.rows, "y": source.y, "mask": source.mask}
                value, found = judged(source.output, rows, loss, metrics, ignore)
                for head, of_head in (("first", value), (name, judged(others[:n], rows, loss, {}, ignore)[0])):
                    terms |= {head if t == "loss" else f"{head}/{t}": m for t, m in as_terms(of_head).items()}
            if sign:
                ours, theirs = ops.without_masked((target.output, others[n:]), target.mask)
                terms["discrepancy"] = mean(discrepancy(ours, theirs), target.mask).scale(sign)
            return terms, Aux(stats, found)

        return run

    def init(key: Key, batch: Batch, given: Variables = NONE) -> Variables:
        needs(batch, DOMAINS[:1], name)
        return complete(beside(net, second, name), key, batch["source"]["x"], given)

    phases = ((True, 0.0), (True, -1.0), (False, 1.0))
    first, apart, close = (Objective(turn(supervised, sign), init, classes=net.classes) for supervised, sign in phases)
    return first, apart, close


def discrepancy(
    first: Float[Array, "*batch classes"], second: Float[Array, "*batch classes"]
) -> Float[Array, "*batch"]:
    """`mean_c |softmax(z)_c − softmax(z')_c|`, one value per row or pixel; the gradient is 0 if both agree exactly.

    Args:
      first: z, the logits of one head.
      second: z', those of the other.
    """
    p, q = (jax.nn.softmax(z.astype(jnp.promote_types(z.dtype, jnp.float32))) for z in (first, second))
    return jnp.abs(p - q).mean(-1)
