"""Training of sentence embeddings: pairs with in-batch negatives, and SetFit on a few labelled examples."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jtl import ops, rng
from jtl.methods.finetune.contrastive import in_batch_negatives, unit_rows
from jtl.metrics.accumulate import mean
from jtl.model import Model, Variables
from jtl.networks import network
from jtl.objective import NONE, Objective, complete
from jtl.typing import Aux, Batch, Key, Params, Stats


def sentence_pairs(
    backbone: Model, *, scale: float = 20.0, symmetric: bool = False, feature: str = "pooled"
) -> Objective:
    """The objective for pairs with in-batch negatives: `−log exp(s cos(a_i, p_i)) / Σ_j exp(s cos(a_i, p_j))`.

    With microbatches the negatives are those of the same part; under `pmap` they are those of all devices.

    Args:
      backbone: the model of the embedding, such as `jtl.backbones.sentences(...)`; or a network, whose backbone is
        taken, such as `jtl.pretrained.sentence_embedding.embedder(...).network`.
      scale: s > 0.
      symmetric: average with the loss in which anchors and positives are exchanged.
      feature: the name of the embedding, [batch, width].

    Returns:
      An objective on batches `{"x": {"anchor": ..., "positive": ...}, "mask"}`, the mask optional, with the metric
      `accuracy`, how often an anchor's own positive is the nearest. Its parameters are stored under `backbone/`.

    Raises:
      ValueError: while tracing, for another kind of batch, or an embedding that is not a matrix.

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> objective = jtl.finetuning.sentence_pairs(jtl.backbones.mlp((8,)))
      >>> batch = {"x": {"anchor": jnp.ones((4, 5)), "positive": jnp.ones((4, 5))}}
      >>> variables = objective.init(jax.random.key(0), batch)
      >>> loss, aux = objective(variables.params, variables.stats, batch, jax.random.key(1), 0)

    Henderson et al., Efficient Natural Language Response Suggestion for Smart Reply, 2017, arXiv 1705.00652.
    """
    net = _alone(backbone)

    def run(params: Params, stats: Stats, batch: Batch, key: Key | None, step: Any) -> tuple[Any, Aux]:
        del step
        (a, b), stats, mask = _embedded(net, params, stats, batch, key, ("anchor", "positive"), feature)
        a, b = ops.gather(a), ops.gather(b)
        kept = ops.gather(ops.kept(mask, len(a)))
        values = in_batch_negatives(a, b, kept, scale=scale, symmetric=symmetric)
        nearest = jnp.where(kept[None], unit_rows(a) @ unit_rows(b).T, -jnp.inf).argmax(1)
        return mean(values, kept), Aux(stats, {"accuracy": mean(nearest == jnp.arange(len(a)), kept)})

    return Objective(run, _init(net, "anchor"))


def similar_pairs(backbone: Model, *, feature: str = "pooled") -> Objective:
    """SetFit's objective on pairs of sentences: `(cos(a_i, b_i) − y_i)²`, y = 1 for two of the same class, else 0.

    Args:
      backbone: as in `sentence_pairs`.
      feature: the name of the embedding, [batch, width].

    Returns:
      An objective on batches `{"x": {"first": ..., "second": ...}, "y", "mask"}`, with pairs from `class_pairs`.

    Raises:
      ValueError: while tracing, for another kind of batch, or an embedding that is not a matrix.

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> objective = jtl.finetuning.similar_pairs(jtl.backbones.mlp((8,)))
      >>> batch = {"x": {"first": jnp.ones((4, 5)), "second": jnp.ones((4, 5))}, "y": jnp.ones(4)}
      >>> variables = objective.init(jax.random.key(0), batch)
      >>> loss, aux = objective(variables.params, variables.stats, batch, jax.random.key(1), 0)

    Tunstall et al., Efficient Few-Shot Learning Without Prompts, 2022, arXiv 2209.11055.
    """
    net = _alone(backbone)

    def run(params: Params, stats: Stats, batch: Batch, key: Key | None, step: Any) -> tuple[Any, Aux]:
        del step
        (a, b), stats, mask = _embedded(net, params, stats, batch, key, ("first", "second"), feature)
        return mean(((unit_rows(a) * unit_rows(b)).sum(1) - jnp.asarray(batch["y"])) ** 2, mask), Aux(stats)

    return Objective(run, _init(net, "first"))


class Pairs(NamedTuple):
    """Indices of paired examples.

    Args:
      first: [pairs].
      second: [pairs], always different from `first`.
      same: 1 if both are of the same class, else 0, [pairs] float32.
    """

    first: np.ndarray
    second: np.ndarray
    same: np.ndarray


def class_pairs(y: Any, rounds: int, seed: int = 0) -> Pairs:
    """SetFit's pairs: in each round every example is paired with one of its own class and one of another class.

    Args:
      y: labels, integers [examples], of at least two classes with at least two examples each.
      rounds: R, the paper's iterations, by default 20 there; there are 2 R pairs per example.
      seed: seed for the random pairs.

    Raises:
      ValueError: for fewer than one round, fewer than two classes, or a class with one example.

    Example:
      >>> import numpy as np, jtl
      >>> pairs = jtl.finetuning.class_pairs(np.array([0, 0, 1, 1]), 1)
      >>> len(pairs.first), pairs.same.tolist()
      (8, [1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0])

    Tunstall et al., Efficient Few-Shot Learning Without Prompts, 2022, arXiv 2209.11055.
    """
    y = np.asarray(y)
    names, counts = np.unique(y, return_counts=True)
    if rounds < 1 or y.ndim != 1 or len(names) < 2 or counts.min() < 2:
        raise ValueError(
            f"rounds={rounds}, classes {dict(zip(names.tolist(), counts.tolist(), strict=True))}: two each"
        )
    draw = np.random.default_rng(seed)
    every, parts = np.arange(len(y)), []
    for _ in range(rounds):
        alike = np.array([draw.choice(every[(y == y[i]) & (every != i)]) for i in every])
        other = np.array([draw.choice(every[y != y[i]]) for i in every])
        parts += [(every, alike, np.ones(len(y))), (every, other, np.zeros(len(y)))]
    first, second, same = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Pairs(first, second, same.astype(np.float32))


def _alone(model: Model) -> Model:
    """A network without a head; of a network the backbone, so that its own variables fit."""
    return network(backbone=model if model.parts is None else model.parts["backbone"])


def _embedded(
    net: Model, params: Params, stats: Stats, batch: Batch, key: Key | None, names: tuple[str, str], feature: str
) -> tuple[list[Any], Stats, Any]:
    x, mask, found = batch["x"], batch.get("mask"), []
    if not hasattr(x, "keys") or set(x) != set(names):
        raise ValueError(
            f"the batch's x must hold {list(names)}, and is {sorted(x) if hasattr(x, 'keys') else type(x)}"
        )
    for name in names:
        own = None if key is None else rng.stream(key, name)
        rows = ops.without_masked(x[name], mask)
        out, stats = net.apply(Variables(params, stats), rows, train=key is not None, key=own)
        e = out.features.get(feature)
        if e is None or e.ndim != 2:
            shapes = {n: jnp.shape(f) for n, f in out.features.items() if hasattr(f, "shape")}
            raise ValueError(f"feature={feature!r} must be an embedding [batch, width]; there are {shapes}")
        found.append(e)
    return found, stats, mask


def _init(net: Model, name: str) -> Any:
    def init(key: Key, batch: Batch, given: Variables = NONE) -> Variables:
        return complete(net.init, key, batch["x"][name], given)

    return init
