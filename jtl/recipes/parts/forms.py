"""Three textbook forms of domain adaptation, each as turns or phases of one step."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from jtl import heads
from jtl.methods.adapt.adapt import adapt
from jtl.methods.adapt.adda import adda
from jtl.methods.adapt.dann import alternating, weight_schedule
from jtl.methods.adapt.mmd import mmd
from jtl.methods.adapt.on_features import coral_map
from jtl.methods.finetune.features import features
from jtl.methods.finetune.finetune import finetune
from jtl.methods.finetune.on_features import logistic_regression
from jtl.model import Model, Variables
from jtl.objective import Objective, on
from jtl.params import select
from jtl.train.turns import Phase, Turn
from jtl.typing import Mask


class Plan(NamedTuple):
    """What a form minimises on batches `{"source": {"x", "y"}, "target": {"x"}}`.

    Args:
      turns: like the first argument of `make_step`.
      groups: the masks of the parameters that each optimizer owns.
      init: a function that draws the parameters.
    """

    turns: Any
    groups: tuple[Mask, ...]
    init: Callable[..., Variables]


def alone(net: Model) -> Plan:
    """`L_source`; no row of the target goes through the network."""
    objective = of_source(finetune(net))
    return Plan(objective, (select(".*"),), objective.init)


def joint(net: Model, steps: int, weight: float) -> Plan:
    """`L_source + λ(step) MMD²` of the pooled features of both domains, λ growing to `weight`."""
    ramp = weight_schedule(steps)
    objective = adapt(net, alignments=[mmd(lambda step: weight * ramp(step))])
    return Plan(objective, (select(".*"),), objective.init)


def alternated(net: Model, steps: int, weight: float) -> Plan:
    """A critic and the network against it take turns; in the last quarter of the steps the head learns alone.

    Both phases share one state. The second does not change a bit of the backbone, its running statistics or the critic.
    """
    last = classifier_begins(steps)
    ramp = weight_schedule(last)
    critic, generator = alternating(net, heads.mlp(1, (128,)), weight=lambda step: weight * ramp(step))
    turns = [Turn(critic, by=(0,), name="critic"), Turn(generator, by=(1, 2), name="network")]
    groups = select("critic/.*"), select("backbone/.*"), select("head/.*")
    return Plan([Phase(0, turns), Phase(last, Turn(of_source(features(net)), by=(2,)))], groups, critic.init)


def classifier_begins(steps: int) -> int:
    """The first step of the second phase of `alternated`."""
    return steps - max(1, steps // 4)


def mapped(net: Model) -> Plan:
    """ADDA: a critic, and an encoder of the target against it; the source's encoder and the classifier are fixed."""
    critic, encoder = adda(net, heads.mlp(1, (128,)))
    return Plan([critic, encoder], (select("critic/.*"), select("backbone/.*")), critic.init)


def of_source(objective: Objective) -> Objective:
    """An objective of labelled batches, on the source of a pair of domains."""
    return on(objective, lambda batch, _: batch["source"])


def coral_classifier(
    source: np.ndarray, y: np.ndarray, target: np.ndarray, others: Mapping[str, np.ndarray], classes: int
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """A logistic regression on the features of the source, mapped to those of the target by `coral_map`.

    Each domain is standardised by its own means and deviations, as the authors of CORAL do.

    Args:
      source: features [rows, width] of the source.
      y: labels of the source.
      target: features of the target, from which the map and the target's moments are computed.
      others: name -> features of the target to classify.
      classes: the number of classes.

    Returns:
      name -> the standardised features and their logits.
    """
    here, there = _moments(source), _moments(target)
    x = coral_map(_standard(source, here), _standard(target, there))
    fitted = logistic_regression(x.astype(np.float32), y, classes=classes)
    seen = {name: _standard(rows, there).astype(np.float32) for name, rows in others.items()}
    return {name: (rows, np.asarray(fitted(rows))) for name, rows in seen.items()}


def _moments(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    wide = np.asarray(x, np.float64)
    deviation = wide.std(0)
    return wide.mean(0), np.where(deviation > 0, deviation, 1.0)


def _standard(x: np.ndarray, moments: Iterable[np.ndarray]) -> np.ndarray:
    mean, deviation = moments
    return (x - mean[None]) / deviation[None]
