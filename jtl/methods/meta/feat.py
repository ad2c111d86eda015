"""FEAT: class means that attend to each other, so that the features suit the classes of a task."""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jtl import losses, rng
from jtl.checked import positive, within
from jtl.heads import Reads, reading
from jtl.methods.finetune.finetune import ACCURACY, finetune
from jtl.methods.meta.memory import MEMBER, SUPPORT, memory_of, present
from jtl.methods.meta.prototypes import head_of
from jtl.methods.terms import clean, squared_distances
from jtl.metrics.accumulate import as_terms, element_weights, mean
from jtl.model import Model, Variables
from jtl.nn.attention import attend
from jtl.nn.layer_norm import LayerNorm
from jtl.objective import Objective
from jtl.typing import Aux, Batch, Key, Output, Params, Stats


class SetToSet(nn.Module):
    """`Ψ(z) = LayerNorm(z + W_o softmax(z W_q (z W_k)ᵀ / √d) z W_v + b)`, one head of attention over the rows of a set.

    Args:
      dropout: probability of dropping an entry of what is added to z.
      attention_dropout: probability of dropping a weight of the attention.
    """

    dropout: float = 0.5
    attention_dropout: float = 0.1

    @nn.compact
    def __call__(self, x: Float[Array, "rows features"], seen: Bool[Array, "rows rows"], train: bool) -> Array:
        """The rows, each changed by the rows that it may see."""
        width = x.shape[-1]

        def layer(name: str, bias: bool = False) -> nn.Dense:
            return nn.Dense(width, use_bias=bias, kernel_init=nn.initializers.glorot_normal(), name=name)

        q, k, v = (layer(name)(x)[None, :, None] for name in ("query", "key", "value"))
        drawn = self.make_rng("dropout") if train and self.attention_dropout else None
        found = attend(q, k, v, seen[None, None], self.attention_dropout, drawn)[0, :, 0]
        found = nn.Dropout(self.dropout, deterministic=not train)(layer("projection", bias=True)(found))
        return LayerNorm(1e-5, name="norm")(found + x)


def feat(
    *, temperature: float = 64.0, dropout: float = 0.5, attention_dropout: float = 0.1, reads: Reads = "pooled"
) -> Model:
    """Logits `−‖Ψ(c)_k − z‖² / τ`, c the class means of the support set and Ψ attention over the classes.

    Use it with `memorise`, and train it with `jtl.meta` on episodes, from a backbone that was trained to classify.

    Args:
      temperature: τ; the authors take 32 or 64 for the features of their networks.
      dropout: probability of dropping, in training, an entry of what the attention adds to a mean.
      attention_dropout: probability of dropping a weight of the attention; 0.1 in the authors' code.
      reads: which features are compared.

    Raises:
      ValueError: for numbers out of range; when called, without a memory.

    Example:
      >>> import jtl
      >>> net = jtl.network(backbone=jtl.backbones.conv4(64), head=jtl.learners.feat())
      >>> adapt = jtl.learners.memorise(net, way=5)
      >>> objective = jtl.meta(adapt, jtl.learners.set_contrast(net, weight=0.1))

    Ye et al., Few-Shot Learning via Embedding Adaptation with Set-to-Set Functions, 2018, arXiv 1812.03664.
    """
    positive(temperature=temperature)
    within("[0, 1)", dropout=dropout, attention_dropout=attention_dropout)
    module = SetToSet(dropout, attention_dropout)

    def init(key: Key, x: Any) -> Variables:
        one = jnp.zeros((1, x.shape[-1]))
        return Variables(dict(module.init(key, one, jnp.ones((1, 1), bool), train=False)["params"]), {})

    def apply(variables: Variables, x: Any, *, train: bool, key: Key | None = None) -> tuple[Output, Stats]:
        z, member = memory_of(variables.params)
        c, found = member.T @ z / jnp.maximum(member.sum(0), 1e-30)[:, None], present(member)
        c = _changed(module, variables.params, c, found[None] & found[:, None], train, key)
        logits = -squared_distances(x.astype(c.dtype), c) / temperature
        return jnp.where(found[None], logits, -jnp.inf), variables.stats

    return reading(Model(init, apply), reads)


def set_contrast(
    net: Model,
    loss: Callable = losses.cross_entropy,
    *,
    weight: float = 0.1,
    temperature: float = 64.0,
    dropout: float = 0.5,
    attention_dropout: float = 0.1,
    metrics: Mapping[str, Callable] = ACCURACY,
) -> Objective:
    """The judge of FEAT in training: `ℓ + λ CE(y, −‖z − m_k‖² / τ)`, the mean over support and query set together.

    m_k is the mean of Ψ(Z_k), Z_k all examples of class k in both sets: what the attention makes of the examples of a
    class stays near that class and far from the others. Both means count each example by its mask and its weight.
    Evaluate with `jtl.evaluation(net)`.

    Args:
      net: a network whose head is `feat(...)`.
      loss: ℓ, as in `jtl.finetune`.
      weight: λ; the authors take 0.01 to 1.
      temperature: τ; the authors take 16 to 64.
      dropout: as in `feat`.
      attention_dropout: as in `feat`.
      metrics: as in `jtl.finetune`.

    Raises:
      ValueError: for numbers out of range, or a network that does not have exactly one head; when called, without a
        memory or for another head.

    Example:
      >>> import jtl
      >>> net = jtl.network(backbone=jtl.backbones.conv4(64), head=jtl.learners.feat())
      >>> judge = jtl.learners.set_contrast(net, weight=1.0, temperature=16.0)

    Ye et al., Few-Shot Learning via Embedding Adaptation with Set-to-Set Functions, 2018, arXiv 1812.03664.
    """
    positive(temperature=temperature)
    within("[0, inf)", weight=weight)
    within("[0, 1)", dropout=dropout, attention_dropout=attention_dropout)
    head, inner = head_of(net), finetune(net, loss, metrics=metrics)
    module = SetToSet(dropout, attention_dropout)

    def run(params: Params, stats: Stats, batch: Batch, key: Key | None, step: Any) -> tuple[Any, Aux]:
        if "projection" not in params.get(head, {}):
            raise ValueError(f"the head {head!r} holds {sorted(params.get(head, {}))}: this judge is for feat(...)")
        own, aux = inner(params, stats, batch, key, step)
        support, member = memory_of(params[head])
        weights = element_weights(batch["y"].shape, batch.get("mask"), batch.get("weights"))
        z, kept = clean(aux.outputs["read"], weights)
        label = jax.nn.one_hot(batch["y"], member.shape[1], dtype=member.dtype)
        if weights is not None:
            label = label * weights[:, None].astype(label.dtype)
        rows = jnp.concatenate([support, z.astype(support.dtype)])
        belongs = jnp.concatenate([member, jnp.where(kept[:, None], label, 0)])
        same = belongs @ belongs.T > 0
        drawn = None if key is None else rng.stream(key, "contrast")
        moved = _changed(module, params[head], rows, same, key is not None, drawn)
        m = belongs.T @ moved / jnp.maximum(belongs.sum(0), 1e-30)[:, None]
        logits = jnp.where(present(belongs)[None], -squared_distances(rows, m) / temperature, -jnp.inf)
        log = jnp.where(belongs > 0, jax.nn.log_softmax(logits), 0)
        count = belongs.sum(1)
        each = -(belongs * log).sum(1) / jnp.where(count > 0, count, 1)
        further = mean(each, weights=count).scale(weight)
        terms = {"supervised" if name == "loss" else name: value for name, value in as_terms(own).items()}
        return {**terms, "set_contrast": further}, aux

    return Objective(run, inner.init, inner.commit, net.classes)


def _changed(module: SetToSet, params: Params, x: Array, seen: Array, train: bool, key: Key | None) -> Array:
    """Ψ of rows that see each other, and themselves."""
    own = {name: value for name, value in params.items() if name not in (SUPPORT, MEMBER)}
    rngs = {} if key is None else {"dropout": key}
    found: Any = module.apply({"params": own}, x, seen | jnp.eye(len(x), dtype=bool), train=train, rngs=rngs)
    return found
