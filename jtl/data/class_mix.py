"""ClassMix: half of the classes of one image are pasted on another, pixels and labels alike."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Integer, Shaped

from jtl.checked import whole
from jtl.typing import Key


def class_mix(
    key: Key,
    x: Shaped[Any, "batch height width channels"],
    y: Integer[Any, "_ _ _"],
    onto: Shaped[Any, "_ _ _ _"],
    labels: Integer[Any, "_ _ _"],
    classes: int,
    *,
    weights: Any = None,
) -> tuple[Shaped[Array, "batch height width channels"], Array, Bool[Array, "batch height width"]]:
    """The images `M x + (1 − M) x'` with the labels `M y + (1 − M) y'`, M from `half_of_classes`.

    Args:
      key: key for the choice of classes; each pair has its own draw.
      x: the images that classes are taken of.
      y: their label maps.
      onto: x', the images below, in the order of their pairs.
      labels: y', their label maps.
      classes: the number of classes.
      weights: as in `half_of_classes`.

    Returns:
      The mixed images in the dtype that both have in common, their labels in int32 at least, and M.

    Raises:
      ValueError: for a number of classes below 1, or images and labels that do not fit each other.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jtl.data.mixing import class_mix
      >>> y, others = jnp.array([[[1, 1, 255, 255]]]), jnp.array([[[0, 2, 2, 0]]])  # half of one class is this class
      >>> x, onto = jnp.full((1, 1, 4, 1), 0.25), jnp.full((1, 1, 4, 1), 0.75)
      >>> mixed, labels, pasted = class_mix(jax.random.key(0), x, y, onto, others, classes=3)
      >>> mixed[0, 0, :, 0].tolist(), labels[0, 0].tolist()
      ([0.25, 0.25, 0.75, 0.75], [1, 1, 2, 0])

    Olsson et al., ClassMix: Segmentation-Based Data Augmentation for Semi-Supervised Learning, 2020, arXiv 2007.07936;
    across domains Tranheden et al., DACS: Domain Adaptation via Cross-domain Mixed Sampling, 2020, arXiv 2007.08702.
    """
    x, y, onto, labels = (jnp.asarray(a) for a in (x, y, onto, labels))
    if x.ndim != 4 or x.shape != onto.shape or not y.shape == labels.shape == x.shape[:3]:
        shapes = [a.shape for a in (x, y, onto, labels)]
        raise ValueError(f"class_mix: images and labels of shapes {shapes}: give maps of the images' size, in pairs")
    pasted = half_of_classes(key, y, classes, weights=weights)
    wide = jnp.promote_types(y.dtype, jnp.int32)
    return jnp.where(pasted[..., None], x, onto), jnp.where(pasted, y.astype(wide), labels.astype(wide)), pasted


def half_of_classes(
    key: Key, y: Integer[Any, "batch height width"], classes: int, *, weights: Any = None
) -> Bool[Array, "batch height width"]:
    """The mask M of the pixels whose class is in a random half of those of their label map, rounded up.

    All halves are equally likely, and each map has its own.

    Args:
      key: key for the choice.
      y: label maps. A label outside [0, classes), such as 255, is no class: its pixels are never chosen.
      classes: the number of classes.
      weights: one per pixel; a pixel of weight 0 is never chosen, and makes no class present. None for all ones.

    Raises:
      ValueError: for a number of classes below 1, or weights of another shape.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jtl.data.mixing import half_of_classes
      >>> y = jnp.array([[[0, 0, 1, 2, 255]]])  # two of three classes
      >>> half_of_classes(jax.random.key(0), y, classes=3)[0, 0].tolist()
      [True, True, False, True, False]
    """
    whole(1, classes=classes)
    y = jnp.asarray(y)
    y = y.astype(jnp.promote_types(y.dtype, jnp.int32))  # 8 bits need not hold the number of classes
    counts = (y >= 0) & (y < classes)
    if weights is not None:
        if jnp.shape(weights) != y.shape:
            raise ValueError(f"weights of shape {jnp.shape(weights)} for labels of {y.shape}: give one for each")
        counts &= jnp.asarray(weights) > 0
    y = jnp.where(counts, y, classes)  # a place of its own, which is not drawn
    flat = y.reshape(len(y), math.prod(y.shape[1:]))
    rows = jnp.arange(len(y))[:, None]
    present = jnp.zeros((len(y), classes + 1), bool).at[rows, flat].set(True)[:, :classes]
    draws = jnp.where(present, jax.random.uniform(key, present.shape, jnp.float32), 2.0)
    place = jnp.argsort(jnp.argsort(draws, axis=1), axis=1)  # those that are present come first
    chosen = place < (present.sum(1, keepdims=True) + 1) // 2
    return jnp.take_along_axis(jnp.pad(chosen, ((0, 0), (0, 1))), flat, 1).reshape(y.shape)
