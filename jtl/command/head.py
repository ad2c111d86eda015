"""The head of a run: fitted on features that are computed once, with a penalty that held-out examples choose."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

import jtl.data
from jtl import heads, losses
from jtl.backbones.identity import identity
from jtl.command import passes
from jtl.command.model import Inputs
from jtl.command.source import Examples
from jtl.command.splits import folds
from jtl.methods.finetune.cross_validation import cross_validated
from jtl.methods.finetune.finetune import evaluation
from jtl.model import Variables
from jtl.networks import network
from jtl.pretrained.load import Pretrained
from jtl.recipes.parts.texts import probe
from jtl.train import evaluate

PENALTIES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
STANDARDISED = (3e-6, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
"""Those of standardised features, for folds."""
FOLDS = 5
MANY = 5000
"""Of so many examples one split chooses a penalty as well as folds do, in less time."""


class Crossed(NamedTuple):
    """A head whose penalty was chosen by cross-validation, and which was fitted on all of its examples.

    Args:
      variables: the network's, with this head.
      penalty: that was chosen.
      folds: how many there were.
      examples: that it was fitted on.
      logits: of each of them by a head that was fitted without its fold, [examples, classes].
    """

    variables: Variables
    penalty: float
    folds: int
    examples: Examples
    logits: np.ndarray

    @property
    def told(self) -> str:
        """How it was fitted."""
        return (
            f"its penalty {self.penalty:g} was chosen by {self.folds} folds of {len(self.examples)} examples, and it"
            " was fitted again on all of them"
        )


def crossed_head(
    loaded: Pretrained, features: np.ndarray, examples: Examples, seed: int, balanced: bool = False
) -> Crossed:
    """A head by logistic regression with the penalty of the lowest held-out loss of `FOLDS` folds.

    Args:
      loaded: the network.
      features: of the examples, what its head reads.
      examples: that all may be fitted on.
      seed: of the folds.
      balanced: weigh classes by the inverse of their frequency.
    """
    count, dealt = len(examples.classes), folds(examples, FOLDS, seed)
    weights = class_weights(examples)[examples.labels] if balanced else None
    options = {"classes": count, "weights": weights, "standardise": True}
    found = cross_validated(features, examples.labels, dealt, STANDARDISED, **options)
    out = {"kernel": np.asarray(found.fitted.kernel), "bias": np.asarray(found.fitted.bias)}
    variables = Variables({**loaded.variables.params, "head": {"out": out}}, loaded.variables.stats)
    return Crossed(variables, found.fitted.penalty, int(dealt.max()) + 1, examples, found.logits)


def fitted_head(loaded: Pretrained, inputs: Inputs, splits: dict[str, Examples], say: Any) -> Variables:
    """The weights with a head fitted on features of `train`, its penalty chosen by the loss on `val`."""
    read, features = passes.features(loaded, inputs), {}
    for name in ("train", "val"):
        say(f"features of {name}")
        features[name] = read(splits[name].items)
    return head_by(loaded, features, splits)


def head_by(
    loaded: Pretrained, features: dict[str, np.ndarray], splits: dict[str, Examples], balanced: bool = False
) -> Variables:
    """`fitted_head` on features of both splits that are there already."""
    count, best, lowest = len(splits["train"].classes), None, float("inf")
    judged = evaluation(network(backbone=identity(), head=heads.reading(loaded.head, "pooled")))
    data = jtl.data.arrays(features["val"], splits["val"].labels, batch_size=256, shuffle=False)
    loss_of = loss(splits["train"], balanced)
    for penalty in PENALTIES:
        head = probe(features["train"], splits["train"].labels, count, decay=penalty, loss=loss_of)
        value = evaluate(judged, head, data)["loss"]
        if value < lowest:
            best, lowest = head, value
    assert best is not None
    return Variables({**loaded.variables.params, "head": best.params["head"]}, loaded.variables.stats)


def loss(examples: Examples, balanced: bool) -> Callable:
    """Cross-entropy, where asked for with classes weighed by the inverse of their frequency."""
    if not balanced:
        return losses.cross_entropy
    weights = class_weights(examples)
    return lambda z, y: losses.cross_entropy(z, y, class_weights=weights)


def class_weights(examples: Examples) -> np.ndarray:
    """Of each class, its mean over examples 1: the inverse of how frequent it is."""
    count = np.bincount(examples.labels, minlength=len(examples.classes))
    return np.asarray(len(examples) / (len(count) * np.maximum(count, 1)), np.float32)
