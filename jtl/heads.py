"""Heads: small models from features to outputs, [batch, dim] to [batch, classes].

`reads=` names the features that a head reads: by default `pooled`; `"mean"`; `("stage3", "stage4")` side by side; or a
`jtl.reads.Read` such as `whole("last")`, for every token, frame or pixel.

The last layer of each head is called `out`, so `head/out/kernel` names it whichever head is used; `averaged` and
`bridged` have a second one.
"""

from collections.abc import Sequence
from typing import Any, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp

from jtl import checked
from jtl.model import Model, Variables, from_linen
from jtl.reads import Masked, Read, whole
from jtl.reads import reads as vector

Reads: TypeAlias = Read | str | Sequence[str]


def reading(model: Model, reads: Reads) -> Model:
    """Returns the model as a head that reads other features.

    Args:
      model: any model.
      reads: names of features, read as one vector per row; or a `Read`.

    Example:
      >>> from jtl import heads
      >>> heads.reading(heads.linear(3), "mean").reads.names
      ('mean',)
    """
    return model._replace(reads=reads if isinstance(reads, Read) else vector(reads))


def identity(*, reads: Reads = "pooled") -> Model:
    """A head without parameters whose output is the features, `z = x`; for embeddings.

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> head, x = jtl.heads.identity(), jnp.ones((2, 8))
      >>> head.apply(head.init(jax.random.key(0), x), x, train=False)[0].shape
      (2, 8)
    """
    model = Model(lambda key, x: Variables({}, {}), lambda variables, x, *, train, key=None: (x, variables.stats))
    return reading(model, reads)


def linear(
    classes: int, *, dropout: float = 0.0, zero_init: bool = False, bias: bool = True, reads: Reads = "pooled"
) -> Model:
    """An affine map, `z = W x + b`.

    Args:
      classes: size of the output: the number of classes, or of a regressor's targets.
      dropout: probability of dropping a feature in training.
      zero_init: start with W = 0, so that all classes are equally likely at the start.
      bias: whether to add b.

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> head, x = jtl.heads.linear(5), jnp.ones((2, 8))
      >>> head.apply(head.init(jax.random.key(0), x), x, train=False)[0].shape
      (2, 5)
    """
    _check(classes, (), dropout)
    return reading(from_linen(_Mlp(classes, (), dropout, zero_init, bias)), reads)


def per_position(
    classes: int,
    *,
    dropout: float = 0.0,
    zero_init: bool = False,
    bias: bool = True,
    reads: Reads = whole("last"),
) -> Model:
    """One affine map at every token, frame or pixel, `z_p = W x_p + b`: [batch, ..., dim] to [batch, ..., classes].

    Args:
      classes: size of the output.
      dropout: probability of dropping a feature in training.
      zero_init: start with W = 0.
      bias: whether to add b.
      reads: one whole feature; if it is `Masked`, so is the output.

    Raises:
      ValueError: for fewer than one class or a dropout outside [0, 1); when called, for several features.

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> head = jtl.heads.per_position(5)
      >>> tokens = jnp.zeros((2, 7, 8))
      >>> head.apply(head.init(jax.random.key(0), tokens), tokens, train=False)[0].shape
      (2, 7, 5)
    """
    _check(classes, (), dropout)
    return reading(from_linen(_PerPosition(classes, dropout, zero_init, bias)), reads)


def averaged(classes: int, *, reads: Reads = "pooled") -> Model:
    """The mean of two affine maps, one for each half of the features, `z = (W x + b + W' x' + b') / 2`.

    It is for a distilled DeiT: `out` maps the class token and `distilled` maps the distillation token.

    Args:
      classes: size of the output.

    Raises:
      ValueError: for fewer than one class; when called, for features of an odd width.

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> head, x = jtl.heads.averaged(5), jnp.ones((2, 8))
      >>> head.apply(head.init(jax.random.key(0), x), x, train=False)[0].shape
      (2, 5)

    Touvron et al., Training Data-efficient Image Transformers & Distillation through Attention, 2020, arXiv 2012.12877.
    """
    _check(classes, (), 0.0)
    return reading(from_linen(_Averaged(classes)), reads)


def bridged(classes: int, *, reads: Reads = "pooled") -> Model:
    """An affine map minus a second one, the bridge: `z = W x + b − γ(x)`, `γ(x) = V x + c`; for `jtl.alignments.gvb`.

    `out` is the first map and `bridge` the second; a prediction has the bridge subtracted, as in training. So predict
    with this head: `linear` would read `out` alone and leave the rest unread. Both maps together are one, and with the
    parameters `out − bridge` a linear head predicts the same, for instance to save the network.

    Args:
      classes: size of the output.

    Raises:
      ValueError: for fewer than one class.

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> head, x = jtl.heads.bridged(5), jnp.ones((2, 8))
      >>> variables = head.init(jax.random.key(0), x)
      >>> own = variables.params
      >>> one = jtl.Variables({"out": jax.tree.map(jnp.subtract, own["out"], own["bridge"])}, {})
      >>> z = [h.apply(v, x, train=False)[0] for h, v in ((head, variables), (jtl.heads.linear(5), one))]
      >>> bool(jnp.allclose(*z, atol=1e-5))
      True

    Cui et al., Gradually Vanishing Bridge for Adversarial Domain Adaptation, 2020, arXiv 2003.13183.
    """
    _check(classes, (), 0.0)
    return reading(from_linen(_Bridged(classes)), reads)


def mlp(
    classes: int, widths: Sequence[int], *, dropout: float = 0.0, zero_init: bool = False, reads: Reads = "pooled"
) -> Model:
    """Hidden layers with ReLU, then an affine map. Dropout comes before every layer.

    Args:
      classes: size of the output.
      widths: sizes of the hidden layers, `hidden1`, `hidden2`, ...
      dropout: probability of dropping an input of a layer in training.
      zero_init: start the last layer at 0.

    Raises:
      ValueError: for sizes that are not integers of at least 1, or a dropout outside [0, 1).

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> head, x = jtl.heads.mlp(5, (16,)), jnp.ones((2, 8))
      >>> head.apply(head.init(jax.random.key(0), x), x, train=False)[0].shape
      (2, 5)
    """
    _check(classes, widths, dropout)
    return reading(from_linen(_Mlp(classes, tuple(widths), dropout, zero_init)), reads)


def cosine(classes: int, *, temperature: float = 0.1, dropout: float = 0.0, reads: Reads = "pooled") -> Model:
    """Cosine similarity with one direction per class, `z_c = cos(x, w_c) / τ`.

    Args:
      classes: number of classes.
      temperature: τ > 0; logits lie in [−1/τ, 1/τ]. The authors' code uses 0.1 for more than 200 classes and 0.5 for
        200 or fewer, such as a few-shot task (Baseline++).
      dropout: probability of dropping a feature in training.

    Raises:
      ValueError: for a temperature that is not positive and finite, or sizes out of range.

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> head, x = jtl.heads.cosine(5, temperature=0.1), jnp.ones((2, 8))
      >>> logits, _ = head.apply(head.init(jax.random.key(0), x), x, train=False)
      >>> logits.shape, bool((abs(logits) <= 10).all())
      ((2, 5), True)

    Chen et al., A Closer Look at Few-shot Classification, 2019, arXiv 1904.04232.
    """
    _check(classes, (), dropout)
    checked.positive(temperature=temperature)
    return reading(from_linen(_Cosine(classes, temperature, dropout)), reads)


def _check(classes: Any, widths: Sequence[Any], dropout: Any) -> None:
    checked.whole(1, classes=classes, **checked.each("widths", widths))
    checked.within("[0, 1)", dropout=dropout)


class _Mlp(nn.Module):
    classes: int
    widths: tuple[int, ...]
    dropout: float
    zero_init: bool
    bias: bool = True

    @nn.compact
    def __call__(self, x, train: bool):
        for i, width in enumerate(self.widths, 1):
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
            x = nn.relu(nn.Dense(width, kernel_init=nn.initializers.he_normal(), name=f"hidden{i}")(x))
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        init = nn.initializers.zeros if self.zero_init else nn.initializers.lecun_normal()
        return nn.Dense(self.classes, use_bias=self.bias, kernel_init=init, name="out")(x)


class _PerPosition(nn.Module):
    classes: int
    dropout: float
    zero_init: bool
    bias: bool

    @nn.compact
    def __call__(self, x, train: bool):
        if isinstance(x, dict):
            raise ValueError(f"the features {sorted(x)} at once: this head reads one, as whole('last')")
        values = x.values if isinstance(x, Masked) else x
        init = nn.initializers.zeros if self.zero_init else nn.initializers.lecun_normal()
        y = nn.Dropout(self.dropout, deterministic=not train)(values)
        y = nn.Dense(self.classes, use_bias=self.bias, kernel_init=init, name="out")(y)
        return Masked(y, x.mask) if isinstance(x, Masked) else y


class _Averaged(nn.Module):
    classes: int

    @nn.compact
    def __call__(self, x, train: bool):
        if x.shape[-1] % 2:
            raise ValueError(f"features of width {x.shape[-1]}: give two tokens side by side")
        token, distilled = jnp.split(x, 2, -1)
        return (nn.Dense(self.classes, name="out")(token) + nn.Dense(self.classes, name="distilled")(distilled)) / 2


class _Bridged(nn.Module):
    classes: int

    @nn.compact
    def __call__(self, x, train: bool):
        return nn.Dense(self.classes, name="out")(x) - nn.Dense(self.classes, name="bridge")(x)


class _Cosine(nn.Module):
    classes: int
    temperature: float
    dropout: float

    @nn.compact
    def __call__(self, x, train: bool):
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return _Directions(self.classes, name="out")(x) / self.temperature


class _Directions(nn.Module):
    classes: int

    @nn.compact
    def __call__(self, x):
        shape = (x.shape[-1], self.classes)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape, jnp.float32)
        return _unit(jnp.asarray(x), -1) @ _unit(kernel, 0)


def _unit(x: jax.Array, axis: int) -> jax.Array:
    # The 1e-12 keeps the derivative at a zero vector finite.
    return x * jax.lax.rsqrt(jnp.square(x).sum(axis, keepdims=True) + 1e-12)
