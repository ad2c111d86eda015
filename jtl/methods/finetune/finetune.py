"""Supervised training of a network: fine-tuning, and pre-training from random weights."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jtl import losses, metrics, ops
from jtl.methods.added import added
from jtl.methods.views import View, Views
from jtl.metrics.accumulate import Mean, Metric, as_terms, element_weights, mean, measure
from jtl.model import Model, Variables, evaluated
from jtl.networks import called, network, parts_of
from jtl.objective import NONE, Objective, complete
from jtl.typing import Aux, Batch, Key, Params, Stats

ACCURACY = {"accuracy": metrics.accuracy}


def finetune(
    net: Model,
    loss: Callable = losses.cross_entropy,
    terms: Sequence[Objective | Callable] = (),
    *,
    metrics: Mapping[str, Callable | Metric] = ACCURACY,
    ignore: int | None = None,
    frozen_stats: bool = False,
) -> Objective:
    """The objective of supervised training: `Σ_i w_i ℓ(net(x)_i, y_i) / Σ_i w_i` over elements i.

    An element is an example, a token, a frame or a pixel: anything for which the loss returns a value. Its weight is
    the row's `mask`, times the batch's `weights` if there are any, times 0 if its label is `ignore`. The step decides
    which parameters are trained: `make_step(..., trainable=select("head/.*"))` trains only the head. Pre-training uses
    the same objective from random weights.

    Args:
      net: `jtl.network(backbone=..., head=...)`.
      loss: `loss(output, y) -> values` [batch, ...], one per element, or a dict of such values, whose means are added.
      terms: terms that are added to the loss: objectives on views instead of a batch, such as `jtl.finetuning.bss()`,
        or bare functions with the same arguments. Their only view is `source`, the whole batch. The loss itself is then
        reported as `supervised`; the names of the terms and of their metrics must differ.
      metrics: a dict from names to `metric(output, y) -> values` or a `jtl.Metric`. A regressor needs other metrics, or
        {}: the default accuracy is NaN for outputs that have the shape of the labels.
      ignore: the label of elements that do not count, such as -100 for tokens or 255 for pixels.
      frozen_stats: run the backbone in evaluation mode: running statistics are used and not updated; no dropout.

    Returns:
      An objective on batches `{"x", "y", "mask", "weights"}`, the last two optional. `y` may be a tree; `mask` is
      [batch]; `weights` has the leading axes of the loss's values, and is a dict if these are. For `jtl.collect`, the
      objective outputs `output`, `read` (the input of the head) and `y`.

    Raises:
      ValueError: while tracing, if two terms use the same name.
      TypeError: while tracing, for a net of another kind, such as a whole flax classifier.

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> net = jtl.network(backbone=jtl.backbones.mlp((8,)), head=jtl.heads.linear(3))
      >>> batch = {"x": jnp.zeros((4, 5)), "y": jnp.zeros(4, int)}
      >>> objective = jtl.finetune(net)
      >>> variables = objective.init(jax.random.key(0), batch)
      >>> loss, aux = objective(variables.params, variables.stats, batch, jax.random.key(1), 0)
      >>> round(float(loss.value), 4)
      1.0986
    """
    return _supervised(_frozen(net) if frozen_stats else net, loss, metrics, ignore, terms, train=True)


def evaluation(
    net: Model,
    loss: Callable = losses.cross_entropy,
    *,
    metrics: Mapping[str, Callable | Metric] = ACCURACY,
    ignore: int | None = None,
) -> Objective:
    """The objective of `finetune` in evaluation mode: running statistics are used and not updated; no dropout.

    Example:
      >>> import jtl
      >>> net = jtl.network(backbone=jtl.backbones.mlp((8,)), head=jtl.heads.linear(3))
      >>> validation = jtl.evaluation(net, metrics={"top2": lambda z, y: jtl.metrics.top_k(z, y, 2)})
    """
    return _supervised(net, loss, metrics, ignore, train=False)


def predictor(net: Model) -> Callable:
    """Returns `predict(variables, x) -> output`, which runs in evaluation mode.

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> net = jtl.network(backbone=jtl.backbones.mlp((8,)), head=jtl.heads.linear(3))
      >>> variables = net.init(jax.random.key(0), jnp.zeros((2, 5)))
      >>> jtl.predictor(net)(variables, jnp.zeros((2, 5))).shape
      (2, 3)
    """

    def predict(variables: Variables, x: Any) -> Any:
        return called(net, variables, x, train=False)[0].output

    return predict


def _supervised(
    net: Model, loss: Callable, metrics: Mapping, ignore: int | None, terms: Sequence = (), *, train: bool
) -> Objective:
    more = added(terms, "term")

    def look(params: Params, stats: Stats, batch: Batch, key: Key | None) -> tuple[Any, Views, Stats]:
        if "y" not in batch:
            raise ValueError(
                f"the batch holds {sorted(batch)} and no labels 'y', which this loss needs; jtl.extract gives the"
                " features of unlabelled data, jtl.predictor the output"
            )
        x = ops.without_masked(batch["x"], batch.get("mask"))
        out, stats = called(net, Variables(params, stats), x, train=train, key=key if train else None)
        rows = {name: value for name, value in batch.items() if name not in ("x", "y", "mask")}
        if ignore is not None:  # terms see it as a weight of 0, as alignments do
            rows["weights"] = weights_without(ignore, batch["y"], batch.get("weights"))
        view = View(out.features, out.output, batch["x"], batch["y"], batch.get("mask"), rows)
        return out, {"source": view}, stats

    def run(params: Params, stats: Stats, batch: Batch, key: Key | None, step: Any) -> tuple[Any, Aux]:
        out, views, stats = look(params, stats, batch, key)
        own_loss, found = judged(out.output, batch, loss, metrics, ignore)
        outputs = {"output": out.output, "read": out.read, "y": batch["y"]}
        if not more.terms:
            return own_loss, Aux(stats, found, outputs)
        value = {"supervised" if name == "loss" else name: m for name, m in as_terms(own_loss).items()}
        return more.to(value, Aux(stats, found, outputs), params, views, key, step)

    def init(key: Key, batch: Batch, given: Variables = NONE) -> Variables:
        variables = complete(net.init, key, batch["x"], given)
        if not more.terms:
            return variables
        views = jax.eval_shape(lambda v, b, k: look(v.params, v.stats, b, k)[1], variables, dict(batch), key)
        return more.init(key, views, variables)

    return Objective(run, init, more.commit, net.classes)


def judged(
    output: Any, batch: Batch, loss: Callable, metrics: Mapping[str, Callable | Metric], ignore: int | None = None
) -> tuple[Mean | dict[str, Mean], dict[str, Any]]:
    """The loss and the metrics of a batch's output, over the elements that its mask and weights keep."""
    y, mask = batch["y"], batch.get("mask")
    weights = weights_without(ignore, y, batch.get("weights"))
    y = ops.without_masked(y, mask)
    if isinstance(weights, Mapping):
        y = {name: ops.without_masked(part, weights.get(name)) for name, part in y.items()}
    else:
        y = ops.without_masked(y, weights)
    values = loss(output, y)
    if isinstance(values, Mapping):
        own = weights if isinstance(weights, Mapping) else dict.fromkeys(values, weights)
        value = {name: mean(v, mask, own.get(name)) for name, v in values.items()}
    else:
        value = mean(values, mask, weights)
    if not isinstance(weights, Mapping):
        kept = mask if weights is None else element_weights(jnp.shape(weights), mask, weights)
        return value, {name: measure(metric, output, y, kept, name=name) for name, metric in metrics.items()}
    # Labels are a tree: a plain metric returns one value per row, and only a `Metric` can use weights by name.
    kept = {name: element_weights(jnp.shape(w), mask, w) for name, w in weights.items()}
    return value, {
        name: measure(metric, output, y, kept if isinstance(metric, Metric) else mask, name=name)
        for name, metric in metrics.items()
    }


def weights_without(ignore: int | None, y: Any, given: Any) -> Any:
    """Weights of elements: those of the batch, but 0 for the label to ignore."""
    if ignore is None:
        return given
    if isinstance(y, Mapping):
        own = given or {}
        return {name: weights_without(ignore, part, own.get(name)) for name, part in y.items()}
    y = jnp.asarray(y)
    kept = y.astype(jnp.promote_types(y.dtype, jnp.int32)) != ignore  # in 8 bits -1 would be 255
    return kept if given is None else element_weights(kept.shape, kept, given)


def _frozen(net: Model) -> Model:
    parts = parts_of(net)
    return network(**{**parts, "backbone": evaluated(parts["backbone"])})._replace(classes=net.classes)


def frozen_backbone(net: Model) -> Model:
    """The network whose backbone runs in evaluation mode and gets no gradient."""
    parts = parts_of(_frozen(net))
    backbone = parts["backbone"]

    def apply(variables: Variables, x: Any, *, train: bool, key: Any = None) -> tuple:
        found, stats = backbone.apply(variables, x, train=train, key=key)
        return jax.lax.stop_gradient(found), stats

    return network(**{**parts, "backbone": backbone._replace(apply=apply)})._replace(classes=net.classes)
