"""Label-free scores of a network during training."""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from jtl.methods.finetune.finetune import evaluation
from jtl.model import Model, Variables
from jtl.selection.checked import labels
from jtl.selection.validators import clustering, density, importance, predictions, reverse
from jtl.selection.validators.mixval import mixval
from jtl.selection.validators.predictions import probabilities
from jtl.train.collect import collector
from jtl.typing import Aux

_TARGET = {
    "certainty": lambda t: predictions.certainty(t["output"]),
    "diversity": lambda t: predictions.diversity(t["output"]),
    "im": lambda t: predictions.information_maximisation(t["output"]),
    "bnm": lambda t: predictions.nuclear_norm(t["output"]),
    "snd": lambda t: density.soft_neighbourhood_density(t["output"]),
    "clustering": lambda t: clustering.class_clustering(t["read"], t["output"]),
}
_BOTH = {
    "source_accuracy": lambda t, s: predictions.accuracy(s["output"], s["y"]),
    "reverse": lambda t, s: reverse.reverse_validation(t["read"], t["output"], s["read"], s["y"]),
}
_WEIGHED = {
    # Divided by the mean weight, which is far below 1 for distant domains and would otherwise make their risk lowest.
    "iw_risk": lambda losses, w: importance.importance_weighted_risk(losses, w / w.mean()),
    "dev": lambda losses, w: importance.deep_embedded_validation(losses, w),
    "devn": lambda losses, w: importance.deep_embedded_validation(losses, w, "max"),
}
MIXVAL = "mixval"
MEAN_WEIGHT = "mean_weight"
ORACLE = "ORACLE/accuracy"


def label_free(
    net: Model, target: Any, scores: Sequence[str], *, source: Any = None, oracle: bool = False
) -> Callable[[Variables], dict[str, float]]:
    """A function of variables for `Validation(also=[...])`: scores of a network on an unlabelled target.

    Args:
      net: `jtl.network(backbone=..., head=...)` whose head reads one vector per row.
      target: batches `{"x", "y", "mask"}` of the target; labels are not read unless `oracle` is set.
      scores: names of scores. "certainty", "diversity", "im", "bnm", "snd" and "clustering" read only the target and
        are high for a good model. The others except "mixval" need `source`: "source_accuracy" and "reverse" are high
        for a good model, "iw_risk", "dev" and "devn" low. The weights of these three come from `cross_fitted_ratio`,
        for "iw_risk" divided by their mean. This mean is reported as "mean_weight"; if it is far from 1, the scores
        depend on few rows. "mixval", the mean of the two parts of `mixval`, is high for a good model, needs inputs that
        are arrays of floats, and takes three more forward passes over the target.
      source: batches of the source's validation rows.
      oracle: also report "ORACLE/accuracy", the accuracy by the target's labels, which a user without labels cannot
        know.

    Raises:
      ValueError: for an unknown score, or one that needs a source if none is given.

    Example:
      >>> import jax, numpy as np, jtl
      >>> net = jtl.network(backbone=jtl.backbones.mlp((8,)), head=jtl.heads.linear(3))
      >>> x = np.random.default_rng(0).normal(size=(12, 5)).astype(np.float32)
      >>> target = jtl.data.arrays(x, batch_size=4, shuffle=False)
      >>> look = jtl.selection.validators.label_free(net, target, ["im", "snd"])
      >>> sorted(look(net.init(jax.random.key(0), x)))
      ['im', 'snd']
    """
    both = _BOTH.keys() | _WEIGHED.keys()
    unknown = sorted(set(scores) - _TARGET.keys() - both - {MIXVAL})
    if unknown:
        known = sorted([*_TARGET, MIXVAL])
        raise ValueError(f"scores {unknown}: there are {known}, and with a source {sorted(both)}")
    wanting = sorted(set(scores) & both)
    weighed = any(name in _WEIGHED for name in scores)
    if wanting and source is None:
        raise ValueError(f"scores {wanting} need source=: the source's validation rows")
    labelled = collector(evaluation(net))
    of_target = labelled if oracle else collector(_rows(net))
    mixed = _mixed(net) if MIXVAL in scores else None

    def look(variables: Variables) -> dict[str, float]:
        found = {} if mixed is None else {MIXVAL: mixed(variables, target)}
        there = of_target(variables, target)
        here = labelled(variables, source) if wanting else {}
        losses = weights = np.zeros(0)
        if weighed:
            losses, weights = _losses(here), importance.cross_fitted_ratio(here["read"], there["read"])
            found[MEAN_WEIGHT] = float(weights.mean())
        for name in scores:
            if name in _TARGET:
                found[name] = _TARGET[name](there)
            elif name in _BOTH:
                found[name] = _BOTH[name](there, here)
            elif name in _WEIGHED:
                found[name] = _WEIGHED[name](losses, weights)
        if oracle:
            found[ORACLE] = predictions.accuracy(there["output"], there["y"])
        return found

    return look


def _rows(net: Model) -> Callable:
    """An objective for evaluation that outputs rows and does not read labels."""

    def run(params: Any, stats: Any, batch: Any, key: Any, step: Any) -> tuple[Any, Aux]:
        del key, step
        out, _ = net.apply(Variables(params, stats), batch["x"], train=False, key=None)
        return jnp.zeros(()), Aux(stats, {}, {"output": out.output, "read": out.read})

    return run


def _mixed(net: Model) -> Callable[[Variables, Any], float]:
    """The mean of MixVal's two scores on the rows of the target that count."""
    look = collector(_rows(net), only=("output",))  # on the mesh of the variables, like the other scores

    def run(variables: Variables, target: Any) -> float:
        parts, size = [], 0
        for i in range(len(target)):
            batch = target[i]  # once, because each access reads its files
            x, mask = batch["x"], batch.get("mask")
            if isinstance(x, dict):
                raise ValueError(f"mixval mixes inputs that are one array; these have {sorted(x)}")
            parts.append(np.asarray(x) if mask is None else np.asarray(x)[np.asarray(mask) > 0])
            size = size or len(x)  # that of the first batch, so that all calls share one compiled program

        def predict(x: np.ndarray) -> np.ndarray:
            full = np.concatenate([x, np.repeat(x[-1:], -len(x) % size, 0)])
            return look(variables, [{"x": full[i : i + size]} for i in range(0, len(full), size)])["output"][: len(x)]

        return float(np.mean(list(mixval(predict, np.concatenate(parts)).values())))

    return run


def _losses(there: dict[str, Any]) -> np.ndarray:
    _, logp = probabilities(there["output"])
    y = labels(there["y"], len(logp), classes=logp.shape[1])
    return -logp[np.arange(len(y)), y]
