"""Label-free scores of a network while it trains."""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from jtl.methods.finetune.finetune import evaluation
from jtl.model import Model, Variables
from jtl.selection.validators import clustering, density, importance, predictions, reverse
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
    "iw_risk": lambda t, s: importance.importance_weighted_risk(_losses(s), _weights(t, s)),
    "dev": lambda t, s: importance.deep_embedded_validation(_losses(s), _weights(t, s)),
    "devn": lambda t, s: importance.deep_embedded_validation(_losses(s), _weights(t, s), "max"),
}
ORACLE = "ORACLE/accuracy"


def label_free(
    net: Model, target: Any, scores: Sequence[str], *, source: Any = None, oracle: bool = False
) -> Callable[[Variables], dict[str, float]]:
    """A function of variables for `Validation(also=[...])`: scores of a network on an unlabelled target.

    Args:
      net: `jtl.network(backbone=..., head=...)` whose head reads one vector a row.
      target: batches `{"x", "y", "mask"}` of the target; labels are not read unless `oracle` is.
      scores: of "certainty", "diversity", "im", "bnm", "snd", "clustering", which read the target alone and are high
        for a good model, and of "source_accuracy", "reverse" (high), "iw_risk", "dev", "devn" (low), which need
        `source`.
      source: batches of the source's validation rows.
      oracle: also "ORACLE/accuracy", the accuracy by the target's labels, which a user without labels cannot know.

    Raises:
      ValueError: for a score of another name, or one that needs a source where none is given.

    Example:
      >>> import jax, numpy as np, jtl
      >>> net = jtl.network(backbone=jtl.backbones.mlp((8,)), head=jtl.heads.linear(3))
      >>> x = np.random.default_rng(0).normal(size=(12, 5)).astype(np.float32)
      >>> target = jtl.data.arrays(x, batch_size=4, shuffle=False)
      >>> look = jtl.selection.validators.label_free(net, target, ["im", "snd"])
      >>> sorted(look(net.init(jax.random.key(0), x)))
      ['im', 'snd']
    """
    unknown = sorted(set(scores) - _TARGET.keys() - _BOTH.keys())
    if unknown:
        raise ValueError(f"scores {unknown}: there are {sorted(_TARGET)}, and with a source {sorted(_BOTH)}")
    wanting = sorted(set(scores) & _BOTH.keys())
    if wanting and source is None:
        raise ValueError(f"scores {wanting} need source=: the source's validation rows")
    labelled = collector(evaluation(net))
    of_target = labelled if oracle else collector(_rows(net))

    def look(variables: Variables) -> dict[str, float]:
        there = of_target(variables, target)
        here = labelled(variables, source) if wanting else None
        found = {name: _TARGET[name](there) if name in _TARGET else _BOTH[name](there, here) for name in scores}
        if oracle:
            found[ORACLE] = predictions.accuracy(there["output"], there["y"])
        return found

    return look


def _rows(net: Model) -> Callable:
    """The rows of an evaluation that does not look at labels."""

    def run(params: Any, stats: Any, batch: Any, key: Any, step: Any) -> tuple[Any, Aux]:
        del key, step
        out, _ = net.apply(Variables(params, stats), batch["x"], train=False, key=None)
        return jnp.zeros(()), Aux(stats, {}, {"output": out.output, "read": out.read})

    return run


def _losses(rows: dict[str, Any]) -> np.ndarray:
    z = np.asarray(rows["output"], np.float64)
    z = z - z.max(1, keepdims=True)
    return np.log(np.exp(z).sum(1)) - z[np.arange(len(z)), rows["y"]]


def _weights(target: dict[str, Any], source: dict[str, Any]) -> np.ndarray:
    return importance.density_ratio(source["read"], target["read"], source["read"])
