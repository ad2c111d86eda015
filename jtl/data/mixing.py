"""Augmentation across examples: mixup and CutMix, which return images and soft labels, and ClassMix of label maps."""

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jtl.checked import positive, whole
from jtl.data.class_mix import class_mix as class_mix
from jtl.data.class_mix import half_of_classes as half_of_classes
from jtl.data.geometry import one_array
from jtl.typing import Key

Mix: TypeAlias = Callable[..., tuple[Array, Array]]
"""`mix(key, x, y, mask=None) -> (x, y)`."""


def mixup(alpha: float, classes: int | None) -> Mix:
    """Convex combinations of examples and of their labels, `λ x_i + (1−λ) x_π(i)` with `λ ~ Beta(α, α)`.

    Every example draws its own λ; π is one permutation of the batch.

    Args:
      alpha: α > 0; 0.1 to 0.4 on images.
      classes: the number of classes, for integer labels; None for regression, where y are floats [batch, ...].

    Returns:
      `mix(key, x, y, mask=None) -> (x, y)`: x is floating, and y are distributions [batch, classes], as
      `jtl.losses.cross_entropy` takes them, or real numbers of the given shape. Integer images 0 to 255 become floats
      in [0, 1], which `jtl.data.augment.normalise` in the network treats alike: mixing before or after it is the same.
      Give integer images only to a network that normalises inside (`jtl.preprocessed`): any other would see 0 to 1 in
      training and 0 to 255 in evaluation. y may be integers [batch] or distributions. Rows that the mask leaves out are
      not mixed with those that it keeps.

    Raises:
      ValueError: for α or classes out of range; while tracing, for labels of another shape, or integers that are not
        images, such as tokens.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jtl.data.mixing import mixup
      >>> x, y = mixup(0.2, classes=3)(jax.random.key(0), jnp.ones((4, 8, 8, 3)), jnp.array([0, 1, 2, 0]))
      >>> x.shape, y.shape
      ((4, 8, 8, 3), (4, 3))

    Zhang et al., mixup: Beyond Empirical Risk Minimization, 2017, arXiv 1710.09412.
    """
    _check(alpha, classes)

    def mix(key: Key, x: Any, y: Any, mask: Any = None) -> tuple[Array, Array]:
        x, y = _floating(one_array("mixup", x)), soft(y, classes)
        _same(x, y)
        share, order = _draws(key, alpha, len(x), mask)
        return _blend(x, x[order], share), _blend(y, y[order], share)

    return mix


def cutmix(alpha: float, classes: int | None) -> Mix:
    """Pastes a rectangle of another example; labels mix by the area that it covers.

    Its sides are `√(1−λ)` of the image's with `λ ~ Beta(α, α)`, its centre is uniform, and it is cut off at the
    borders: the share of a label is the share of the pixels that were actually pasted. Every example has its own draw;
    the pairing is one permutation of the batch.

    Args:
      alpha: α > 0; 1 in the paper.
      classes: the number of classes, for integer labels; None for regression, where y are floats [batch, ...].

    Returns:
      `mix(key, x, y, mask=None) -> (x, y)`: images [batch, height, width, channels] in their own dtype, and
      distributions [batch, classes], or real numbers of the given shape. y may be integers [batch] or distributions.
      Rows that the mask leaves out are not mixed with those that it keeps.

    Raises:
      ValueError: for α or classes out of range; while tracing, for images or labels of another shape.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jtl.data.mixing import cutmix
      >>> x, y = cutmix(1.0, classes=3)(jax.random.key(0), jnp.ones((4, 8, 8, 3)), jnp.array([0, 1, 2, 0]))
      >>> x.shape, y.shape
      ((4, 8, 8, 3), (4, 3))

    Yun et al., CutMix: Regularization Strategy to Train Strong Classifiers with Localizable Features, 2019, arXiv
    1905.04899.
    """
    _check(alpha, classes)

    def mix(key: Key, x: Any, y: Any, mask: Any = None) -> tuple[Array, Array]:
        x, y = jnp.asarray(one_array("cutmix", x)), soft(y, classes)
        if x.ndim != 4:
            raise ValueError(f"cutmix: images of shape {x.shape}; give [batch, height, width, channels]")
        _same(x, y)
        own, places = jax.random.split(key)
        share, order = _draws(own, alpha, len(x), mask)
        pasted = _rectangles(places, jnp.sqrt(1 - share), x.shape[1], x.shape[2])
        kept = 1 - pasted.mean((1, 2), dtype=jnp.float32)
        return jnp.where(pasted[..., None], x[order], x), _blend(y, y[order], kept)

    return mix


def soft(y: Any, classes: int | None) -> Array:
    """Labels as distributions [batch, classes] in float32: integers one-hot, distributions as they are.

    Without classes they are the real numbers of a regression, in float32 at least. An integer outside [0, classes)
    becomes NaN, which stops training, because its value is not known inside `jit`.

    Raises:
      ValueError: for labels of another shape.

    Example:
      >>> import jax.numpy as jnp
      >>> from jtl.data import mixing
      >>> mixing.soft(jnp.array([2, 0]), 3).tolist()
      [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]
    """
    y = jnp.asarray(y)
    if classes is None:
        if not jnp.issubdtype(y.dtype, jnp.floating) or not y.ndim:
            raise ValueError(
                f"labels of {y.dtype} {y.shape}: without classes give floats [batch, ...], as of a regression"
            )
        return y.astype(jnp.promote_types(y.dtype, jnp.float32))
    if jnp.issubdtype(y.dtype, jnp.integer) and y.ndim == 1:
        inside = (y >= 0) & (y < classes)
        return jnp.where(inside[:, None], jax.nn.one_hot(y, classes), jnp.nan)
    if jnp.issubdtype(y.dtype, jnp.floating) and y.ndim == 2 and y.shape[1] == classes:
        return y.astype(jnp.float32)
    raise ValueError(f"labels of {y.dtype} {y.shape}: give integers [batch] or distributions [batch, {classes}]")


def _draws(key: Key, alpha: float, batch: int, mask: Any) -> tuple[Array, Array]:
    """The shares, and a permutation that maps the rows that a mask keeps to themselves."""
    of_share, of_order = jax.random.split(key)
    left_out = jnp.zeros(batch, bool) if mask is None else jnp.logical_not(jnp.asarray(mask) > 0)
    shuffled = jnp.argsort(jax.random.uniform(of_order, (batch,)) + 2.0 * left_out)  # both begin with the kept rows
    order = jnp.zeros(batch, jnp.int32).at[jnp.argsort(left_out)].set(shuffled.astype(jnp.int32))
    return jax.random.beta(of_share, alpha, alpha, (batch,)), order


def _rectangles(key: Key, side: Array, height: int, width: int) -> Array:
    """Which pixels [batch, height, width] lie in rectangles of this share of each side, cut off at the borders."""
    places = jax.random.uniform(key, (2, len(side)))

    def span(n: int, centre: Array) -> Array:
        length = jnp.floor(n * side).astype(jnp.int32)
        first = jnp.floor(n * centre).astype(jnp.int32) - length // 2
        at = jnp.arange(n)[None]
        return (at >= first[:, None]) & (at < (first + length)[:, None])

    return span(height, places[0])[:, :, None] & span(width, places[1])[:, None, :]


def _blend(a: Array, b: Array, share: Array) -> Array:
    share = share.reshape(-1, *(1,) * (a.ndim - 1)).astype(a.dtype)
    return share * a + (1 - share) * b


def _floating(x: Any) -> Array:
    """Floats as they are, and integer images on the scale on which `augment.normalise` takes floats."""
    x = jnp.asarray(x)
    if jnp.issubdtype(x.dtype, jnp.integer) and x.ndim == 4:
        return x.astype(jnp.float32) / 255
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(
            f"mixup of {x.dtype} {x.shape}: give floats, or integer images [batch, height, width, channels] of 0 to 255"
        )
    return x


def _same(x: Array, y: Array) -> None:
    if len(x) != len(y):
        raise ValueError(f"{len(x)} examples and {len(y)} labels; they must be as many")


def _check(alpha: Any, classes: Any) -> None:
    positive(alpha=alpha)
    if classes is not None:
        whole(2, classes=classes)
