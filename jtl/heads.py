"""Heads: small models from pooled features [batch, dim] to outputs [batch, classes].

The last layer is `out` in each, so `head/out/kernel` names it whichever head is used; `averaged` has one more.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from jtl.model import Model, Variables, from_linen


def identity() -> Model:
    """No head: the features as they are, `z = x`, and no parameters. For embeddings."""
    return Model(lambda key, x: Variables({}, {}), lambda variables, x, *, train, key=None: (x, variables.stats))


def linear(classes: int, *, dropout: float = 0.0, zero_init: bool = False, bias: bool = True) -> Model:
    """An affine map, `z = W x + b`.

    Args:
      classes: size of the output; also the number of targets of a regressor.
      dropout: probability of dropping a feature in training.
      zero_init: start with W = 0, so that every class starts as likely as every other.
      bias: whether there is b.
    """
    _check(classes, (), dropout)
    return from_linen(_Mlp(classes, (), dropout, zero_init, bias))


def averaged(classes: int) -> Model:
    """The mean of two affine maps, each of one half of the features, `z = (W x + b + W' x' + b') / 2`.

    For the tokens of a distilled DeiT, the class token's `out` and the distillation token's `distilled`.

    Args:
      classes: size of the output.

    Raises:
      ValueError: for no classes; when called on features of an odd width.

    Touvron et al., Training Data-efficient Image Transformers & Distillation through Attention, 2020, arXiv 2012.12877.
    """
    _check(classes, (), 0.0)
    return from_linen(_Averaged(classes))


def mlp(classes: int, widths: Sequence[int], *, dropout: float = 0.0, zero_init: bool = False) -> Model:
    """Hidden layers with ReLU, then an affine map. Dropout comes before every layer.

    Args:
      classes: size of the output.
      widths: sizes of the hidden layers, `hidden1`, `hidden2`, ...
      dropout: probability of dropping an input of a layer in training.
      zero_init: start the last layer at 0.

    Raises:
      ValueError: for sizes below 1 or a dropout outside [0, 1).
    """
    _check(classes, widths, dropout)
    return from_linen(_Mlp(classes, tuple(widths), dropout, zero_init))


def cosine(classes: int, *, temperature: float = 0.1, dropout: float = 0.0) -> Model:
    """Cosine similarity with one direction per class, `z_c = cos(x, w_c) / τ`.

    Args:
      classes: how many.
      temperature: τ > 0; logits lie in [−1/τ, 1/τ].
      dropout: probability of dropping a feature in training.

    Raises:
      ValueError: for a temperature that is not positive, or sizes out of range.

    Chen et al., A Closer Look at Few-shot Classification, 2019, arXiv 1904.04232.
    """
    _check(classes, (), dropout)
    if not temperature > 0:
        raise ValueError(f"temperature={temperature}: must be positive")
    return from_linen(_Cosine(classes, temperature, dropout))


def _check(classes: int, widths: Sequence[int], dropout: float) -> None:
    if classes < 1 or any(w < 1 for w in widths):
        raise ValueError(f"classes={classes}, widths={tuple(widths)}: sizes are at least 1")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout={dropout}: the probability lies in [0, 1)")


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


class _Averaged(nn.Module):
    classes: int

    @nn.compact
    def __call__(self, x, train: bool):
        if x.shape[-1] % 2:
            raise ValueError(f"features of width {x.shape[-1]}: give two tokens side by side")
        token, distilled = jnp.split(x, 2, -1)
        return (nn.Dense(self.classes, name="out")(token) + nn.Dense(self.classes, name="distilled")(distilled)) / 2


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
    # The summand keeps the derivative of a zero vector finite.
    return x * jax.lax.rsqrt(jnp.square(x).sum(axis, keepdims=True) + 1e-12)
