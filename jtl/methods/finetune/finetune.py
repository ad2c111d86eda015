"""Supervised training of a backbone and a head: fine-tuning, and pre-training from random weights."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from jaxtyping import Array

from jtl import losses, metrics, rng
from jtl.metrics.accumulate import Mean, mean
from jtl.model import Model, Variables, part, pick
from jtl.typing import Aux, Batch, Key, Objective, Params, Stats

ACCURACY = {"accuracy": metrics.accuracy}


def finetune(
    backbone: Model,
    head: Model,
    loss: Callable = losses.cross_entropy,
    *,
    feature: str | Sequence[str] = "pooled",
    frozen_stats: bool = False,
    metrics: Mapping[str, Callable] = ACCURACY,
) -> Objective:
    """The objective of supervised training: `Σ_i m_i ℓ(h(f(x_i)), y_i) / Σ_i m_i`.

    What learns is the step's business: `make_step(..., trainable=select("head/.*"))` trains the last layer
    alone. Pre-training is the same from random weights.

    Args:
      backbone: its parameters stand under `backbone/`.
      head: from [batch, dim] to outputs; its parameters stand under `head/`.
      loss: `loss(outputs, y) -> [batch]`, one value per example.
      feature: which of the backbone's features the head sees; several are put side by side.
      frozen_stats: run the backbone as in evaluation: running statistics are used and stay, no dropout.
      metrics: name -> `metric(outputs, y) -> [batch]`. For a regressor give its own, or none.

    Returns:
      An objective on batches `{"x": [batch, ...], "y": [batch, ...], "mask": [batch]}`, mask optional.
    """

    def objective(params: Params, stats: Stats, batch: Batch, key: Key | None, step: Any) -> tuple[Mean, Aux]:
        del step
        run = forward(backbone, head, feature=feature, train=True, frozen_stats=frozen_stats)
        _, outputs, stats = run(Variables(params, stats), batch["x"], key)
        return supervised(outputs, batch, stats, loss, metrics)

    return objective


def evaluation(
    backbone: Model,
    head: Model,
    loss: Callable = losses.cross_entropy,
    *,
    feature: str | Sequence[str] = "pooled",
    metrics: Mapping[str, Callable] = ACCURACY,
) -> Objective:
    """The objective of `finetune` in evaluation mode: running statistics, no dropout, nothing changes."""

    def objective(params: Params, stats: Stats, batch: Batch, key: Key | None, step: Any) -> tuple[Mean, Aux]:
        del key, step
        run = forward(backbone, head, feature=feature, train=False)
        _, outputs, _ = run(Variables(params, stats), batch["x"], None)
        return supervised(outputs, batch, stats, loss, metrics)

    return objective


def predictor(backbone: Model, head: Model, *, feature: str | Sequence[str] = "pooled") -> Callable:
    """`predict(variables, x) -> outputs` in evaluation mode."""

    def predict(variables: Variables, x: Any) -> Array:
        return forward(backbone, head, feature=feature, train=False)(variables, x, None)[1]

    return predict


def forward(
    backbone: Model,
    head: Model,
    *,
    feature: str | Sequence[str] = "pooled",
    train: bool,
    frozen_stats: bool = False,
) -> Callable:
    """`run(variables, x, key) -> (features, outputs, stats)` of a backbone with a head on it."""

    def run(variables: Variables, x: Any, key: Key | None) -> tuple[dict[str, Array], Array, Stats]:
        keys = {name: None if key is None else rng.stream(key, name) for name in ("backbone", "head")}
        below = _own(variables, "backbone", backbone, x)
        features, below = backbone.apply(below, x, train=train and not frozen_stats, key=keys["backbone"])
        picked = pick(features, feature, x)
        outputs, above = head.apply(_own(variables, "head", head, picked), picked, train=train, key=keys["head"])
        changed = {name: new for name, new in (("backbone", below), ("head", above)) if new}
        return features, outputs, {**variables.stats, **changed}

    return run


def _own(variables: Variables, name: str, model: Model, x: Any) -> Variables:
    """A part's own variables; it may be missing from the tree where it has no parameters, as `heads.identity()`."""
    if name in variables.params or jax.eval_shape(model.init, jax.random.key(0), x).params:
        return part(variables, name)
    return Variables({}, variables.stats.get(name, {}))


def supervised(outputs: Array, batch: Batch, stats: Stats, loss: Callable, metrics: Mapping[str, Callable]) -> tuple:
    """The mean loss and the metrics of a batch's outputs, over the rows that its mask keeps."""
    y, mask = batch["y"], batch.get("mask")
    found = {name: mean(metric(outputs, y), mask) for name, metric in metrics.items()}
    return mean(loss(outputs, y), mask), Aux(stats, found)
