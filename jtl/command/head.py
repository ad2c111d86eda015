"""Fits the head of a run on features that are computed once, with a penalty that held-out examples choose."""

from collections.abc import Callable, Mapping
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
"""The penalties for standardised features, which cross-validation tries."""
FOLDS = 5
MANY = 5000
"""Above this many examples, one split chooses a penalty as well as folds do, in less time."""


class Crossed(NamedTuple):
    """A head whose penalty was chosen by cross-validation, and which was then fitted on all of its examples.

    Args:
      variables: the network's variables, with this head.
      penalty: the chosen penalty.
      folds: the number of folds.
      examples: the examples that it was fitted on.
      logits: for each example, the outputs of a head that was fitted without its fold, [examples, classes]; numbers
        in the unit of the labels.
    """

    variables: Variables
    penalty: float
    folds: int
    examples: Examples
    logits: np.ndarray

    @property
    def told(self) -> str:
        """How the head was fitted, in words."""
        return (
            f"its penalty {self.penalty:g} was chosen by {self.folds} folds of {len(self.examples)} examples, and it"
            " was fitted again on all of them"
        )


def crossed_head(
    loaded: Pretrained, features: np.ndarray, examples: Examples, seed: int, balanced: bool = False
) -> Crossed:
    """Fits a head by logistic regression, with the penalty that has the lowest held-out loss over `FOLDS` folds.

    Args:
      loaded: the network.
      features: the features of the examples that the head reads.
      examples: the examples to fit the head on.
      seed: the seed of the folds.
      balanced: whether to weight classes by the inverse of their frequency.
    """
    count, dealt = len(examples.classes), folds(examples, FOLDS, seed)
    weights = class_weights(examples)[examples.labels] if balanced else None
    options = {"classes": count, "weights": weights, "standardise": True}
    options["bias"] = "bias" in loaded.variables.params["head"]["out"]
    found = cross_validated(features, examples.labels, dealt, STANDARDISED, **options)
    fitted = as_head(loaded.variables.params["head"], np.asarray(found.fitted.kernel), np.asarray(found.fitted.bias))
    variables = Variables({**loaded.variables.params, "head": fitted}, loaded.variables.stats)
    return Crossed(variables, found.fitted.penalty, int(dealt.max()) + 1, examples, found.logits)


def fitted_head(loaded: Pretrained, inputs: Inputs, splits: dict[str, Examples], say: Any) -> Variables:
    """Returns the variables with a head fitted on features of `train`, its penalty chosen by the loss on `val`."""
    read, features = passes.features(loaded, inputs), {}
    for name in ("train", "val"):
        say(f"features of {name}")
        features[name] = read(splits[name].items)
    return head_by(loaded, features, splits)


def head_by(
    loaded: Pretrained, features: dict[str, np.ndarray], splits: dict[str, Examples], balanced: bool = False
) -> Variables:
    """Does the same as `fitted_head`, with features of both splits that are already computed."""
    count, best, lowest = len(splits["train"].classes), None, float("inf")
    own = heads.reading(loaded.head, "pooled")
    judged = evaluation(network(backbone=identity(), head=own))
    data = jtl.data.arrays(features["val"], splits["val"].labels, batch_size=256, shuffle=False)
    loss_of = loss(splits["train"], balanced)
    for penalty in PENALTIES:
        head = probe(features["train"], splits["train"].labels, count, decay=penalty, loss=loss_of, head=own)
        value = evaluate(judged, head, data)["loss"]
        if value < lowest:
            best, lowest = head, value
    assert best is not None
    return Variables({**loaded.variables.params, "head": best.params["head"]}, loaded.variables.stats)


def as_head(head: Mapping[str, Any], kernel: Any, bias: Any) -> dict[str, Any]:
    """Returns the parameters of a head that computes `x W + b`, in the form of the given ones.

    Args:
      head: parameters of a linear head with or without a bias, or of `jtl.heads.averaged`, which reads half of x each.
      kernel: W, [width, classes].
      bias: b; 0 for a head without a bias.

    Raises:
      ValueError: for a b beside 0 and a head without a bias.
    """
    if "distilled" in head:  # the mean of two maps
        half = len(kernel) // 2
        return {
            "out": {"kernel": 2 * kernel[:half], "bias": bias},
            "distilled": {"kernel": 2 * kernel[half:], "bias": bias},
        }
    if "bias" in head["out"]:
        return {"out": {"kernel": kernel, "bias": bias}}
    if np.any(bias):
        raise ValueError("the network's head has no bias, and the fitted one needs it")
    return {"out": {"kernel": kernel}}


def loss(examples: Examples, balanced: bool) -> Callable:
    """Returns the cross-entropy, if `balanced` with classes weighted by the inverse of their frequency."""
    if not balanced:
        return losses.cross_entropy
    weights = class_weights(examples)
    return lambda z, y: losses.cross_entropy(z, y, class_weights=weights)


def class_weights(examples: Examples) -> np.ndarray:
    """Returns a weight per class, the inverse of its frequency; the mean over the examples is 1."""
    count = np.bincount(examples.labels, minlength=len(examples.classes))
    return np.asarray(len(examples) / (len(count) * np.maximum(count, 1)), np.float32)
