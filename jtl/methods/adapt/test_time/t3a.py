"""T3A: replaces the linear head by class centres of the stream's most certain features."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jtl.metrics.certainty import entropy
from jtl.model import Model, Variables
from jtl.typing import Batch


class Supports(NamedTuple):
    """The most certain features of each class, which represent it.

    Args:
      features: [classes, capacity, width].
      entropies: [classes, capacity], infinite for places that hold no feature yet.
    """

    features: Any
    entropies: Any


class T3A(NamedTuple):
    """The parts of `t3a`.

    Args:
      init: `init(variables) -> supports`.
      step: `step(variables, supports, batch) -> (supports, logits)`; jit it. The batch's own features are included
        before it is predicted.
    """

    init: Any
    step: Any


def t3a(net: Model, *, capacity: int = 100, kernel: str = "head/out/kernel", bias: str = "head/out/bias") -> T3A:
    """Predicts by `z_c = f · m_c/‖m_c‖`, `m_c = Σ_{s in S_c} s/‖s‖`.

    S_c holds the `capacity` features with the lowest entropy among those that the head predicts as class c, and starts
    with the column w_c of the head's kernel. Each batch adds its features under the head's predictions, ranked by the
    entropy of these predictions. No parameter changes, so it works with any normalisation.

    As in the authors' code, a batch is added before it is predicted, a feature that has been dropped never returns, and
    the head's bias affects the entropies and labels but not the predictions. Their code assigns w_c to the class that
    the head predicts for it, which is c unless another column is much longer; here it is always c. Features are
    normalised by the source's running statistics. If normalising by the batch's statistics repairs most of the shift,
    as under image corruptions, there is thus little to gain.

    Args:
      net: `jtl.network(backbone=..., head=jtl.heads.linear(classes))`.
      capacity: number of features kept per class; the authors try 1, 5, 20, 50, 100 and all.
      kernel: the path of the head's kernel [width, classes].
      bias: the path of its bias [classes].

    Raises:
      ValueError: for a capacity below 1, or if the network has no such kernel or bias.

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> net = jtl.network(backbone=jtl.backbones.conv4(8), head=jtl.heads.linear(3))
      >>> x = jnp.ones((4, 16, 16, 3))
      >>> variables = net.init(jax.random.key(0), x)
      >>> method = jtl.test_time.t3a(net, capacity=5)
      >>> supports, logits = method.step(variables, method.init(variables), {"x": x})
      >>> logits.shape
      (4, 3)

    Iwasawa and Matsuo, Test-Time Classifier Adjustment Module for Model-Agnostic Domain Generalization, 2021.
    """
    if capacity < 1:
        raise ValueError(f"capacity={capacity}: at least one feature a class")

    def init(variables: Variables) -> Supports:
        weights = _at(variables.params, kernel).T.astype(jnp.float32)
        offset = _at(variables.params, bias).astype(jnp.float32)
        classes, width = weights.shape
        own = entropy(weights @ weights.T + offset[None])  # the head's entropy for each column, taken as a feature
        features = jnp.zeros((classes, capacity, width)).at[:, 0].set(weights)
        return Supports(features, jnp.full((classes, capacity), jnp.inf).at[:, 0].set(own))

    def step(variables: Variables, supports: Supports, batch: Batch) -> tuple[Supports, Any]:
        out, _ = net.apply(variables, batch["x"], train=False)
        z, h = out.read.astype(jnp.float32), entropy(out.output)
        if batch.get("mask") is not None:
            h = jnp.where(jnp.asarray(batch["mask"]) > 0, h, jnp.inf)
            z = jnp.where(jnp.asarray(batch["mask"])[:, None] > 0, z, 0)
        chosen = out.output.argmax(1)

        def of_class(c: Any, features: Any, entropies: Any) -> tuple[Any, Any]:
            joint = jnp.concatenate([entropies, jnp.where(chosen == c, h, jnp.inf)])
            low, places = jax.lax.top_k(-joint, capacity)
            return jnp.concatenate([features, z])[places], -low

        new = Supports(*jax.vmap(of_class)(jnp.arange(len(supports.features)), *supports))
        there = jnp.isfinite(new.entropies)[..., None]
        lengths = jnp.maximum(jnp.linalg.norm(new.features, axis=2, keepdims=True), 1e-12)
        centres = jnp.sum(jnp.where(there, new.features / lengths, 0), axis=1)
        # Normalised, because the mean of spread directions is short and would lose to classes whose features agree.
        centres = centres / jnp.maximum(jnp.linalg.norm(centres, axis=1, keepdims=True), 1e-12)
        return new, z @ centres.T

    return T3A(init, step)


def _at(params: Any, path: str) -> Any:
    node = params
    for name in path.split("/"):
        if name not in node:
            raise ValueError(f"no parameter {path!r}: t3a needs a linear head; give kernel= and bias= of its layer")
        node = node[name]
    return node
