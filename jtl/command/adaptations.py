"""The adaptation methods by their names in `jtl adapt`, with their weights."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, get_args

from jtl import heads, losses
from jtl.command.adapt_settings import Method
from jtl.methods.adapt import (
    afn,
    atdoc_nc,
    bnm,
    cdan,
    coral,
    dann,
    information_maximisation,
    jmmd,
    mcc,
    mcd,
    mmd,
    sliced_wasserstein,
)
from jtl.methods.adapt.adapt import adapt
from jtl.methods.adapt.dann import default_critic, weight_schedule
from jtl.methods.finetune.finetune import finetune
from jtl.model import Model
from jtl.objective import Objective, on
from jtl.reads import Read
from jtl.train.turns import Turn


class Plan(NamedTuple):
    """The objective of a training step, and its optimizers.

    Args:
      objective: one objective, or a list of turns.
      groups: for each optimizer, patterns of the parameters that it updates.
    """

    objective: Any
    groups: tuple[tuple[str, ...], ...] = ((".*",),)


WEIGHTS: Mapping[str, float] = {
    "dann": 1.0, "cdan": 1.0, "cdan_e": 1.0, "mcc": 1.0, "coral": 1.0, "mmd": 1.0, "jmmd": 1.0,
    "sliced_wasserstein": 1.0, "afn": 0.05, "bnm": 1.0, "im": 1.0, "atdoc_nc": 0.1,
}  # fmt: skip
"""λ of each alignment, the defaults of `jtl.alignments`; for critics, kernels and ATDOC, the value that λ grows to."""
NAMES: tuple[str, ...] = get_args(Method)
AFTER_SOURCE = ("ada_bn", "shot")
"""Methods that start from weights fine-tuned on the source, and then see the target alone."""
SHOT_WEIGHT = 0.3
_INFORMATION = ("im", "certainty", "diversity")
MAXIMISED: Mapping[str, tuple[str, ...]] = {"im": _INFORMATION, "shot": _INFORMATION, "bnm": ("bnm",)}
"""Label-free scores that a method's loss maximises on the target, so they favour it whatever its predictions."""
_ALIGNMENTS: Mapping[str, Callable[[Any, Read], Objective]] = {
    "dann": lambda weight, reads: dann(_critic(reads), weight),
    "cdan": lambda weight, reads: cdan(_critic(reads), weight),
    "cdan_e": lambda weight, reads: cdan(_critic(reads), weight, entropy=True),
    "mcc": lambda weight, reads: mcc(weight),
    "coral": lambda weight, reads: coral(weight, feature=_feature(reads)),
    "mmd": lambda weight, reads: mmd(weight, feature=_feature(reads)),
    "jmmd": lambda weight, reads: jmmd(weight, features=(_feature(reads),)),
    "sliced_wasserstein": lambda weight, reads: sliced_wasserstein(weight, feature=_feature(reads)),
    "afn": lambda weight, reads: afn(weight, feature=_feature(reads)),
    "bnm": lambda weight, reads: bnm(weight),
    "im": lambda weight, reads: information_maximisation(weight),
    "atdoc_nc": lambda weight, reads: atdoc_nc(weight, feature=_feature(reads)),
}
_RAMPED = ("dann", "cdan", "cdan_e", "mmd", "jmmd")
_LINEAR = ("atdoc_nc",)
"""Methods whose weight grows in proportion to the step, because their first labels are wrong."""


def plan(name: str, net: Model, classes: int, steps: int, weight: float | None = None) -> Plan:
    """Returns the plan of a method; for the methods of `AFTER_SOURCE`, that of their training on the source.

    Critics, kernels and the second head read the same features as the network's head, such as the mean over a text's
    tokens.

    Args:
      name: one of `NAMES`.
      net: `jtl.network(backbone=..., head=...)`.
      classes: the number of classes; the second head of "mcd" is linear.
      steps: the steps of the run; the weight of a critic, a kernel or ATDOC grows over them.
      weight: λ; None for the value in `WEIGHTS`.

    Raises:
      ValueError: for an unknown name, a weight for a method that has none, or a head that reads several features if
        the method aligns one.
    """
    if name not in NAMES:
        raise ValueError(f"method {name!r}: there are {', '.join(NAMES)}")
    if weight is not None and name not in WEIGHTS and name != "shot":
        raise ValueError(f"weight={weight}: the method {name!r} has no weight")
    loss = losses.cross_entropy
    if name == "source" or name in AFTER_SOURCE:
        return Plan(on(finetune(net, loss), lambda batch, _: batch["source"]))
    if name == "mcd":
        fit, apart, close = mcd(net, heads.linear(classes, reads=net.parts["head"].reads), loss)
        turns = [Turn(fit, by=(0, 1)), Turn(apart, by=(1,)), Turn(close, by=(0,), repeat=4)]
        return Plan(turns, (("backbone/.*",), ("head/.*", "second/.*")))
    largest = WEIGHTS[name] if weight is None else weight
    grows = weight_schedule(steps) if name in _RAMPED else (lambda step: step / steps) if name in _LINEAR else None
    strength: Any = largest if grows is None else lambda step: largest * grows(step)
    return Plan(adapt(net, loss, alignments=[_ALIGNMENTS[name](strength, net.parts["head"].reads)]))


def first(objective: Any) -> Objective:
    """Returns the objective that initialises the parameters: the first, if there are turns."""
    return objective[0].objective if isinstance(objective, list) else objective


def _critic(reads: Read) -> Model:
    return heads.reading(default_critic(), reads)


def _feature(reads: Read) -> str:
    if len(reads.names) != 1:
        raise ValueError(f"the head reads {list(reads.names)}, and this method aligns one feature: take dann or mcc")
    return reads.names[0]
