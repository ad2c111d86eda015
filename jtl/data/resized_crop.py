"""Random windows of random size and shape, each resized to the same square (Szegedy et al., 2015, 1409.4842)."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jtl.checked import whole
from jtl.data.geometry import Geometric, images_only
from jtl.typing import Key

TRIES = 10
"""The number of windows drawn for an image; the first that fits is taken, as in torchvision."""


def resized_crop(
    size: int, area: tuple[float, float] = (0.35, 1.0), ratio: tuple[float, float] = (3 / 4, 4 / 3)
) -> Geometric:
    """Crops a window of random area, shape and place, and resizes it to [size, size] bilinearly, with antialiasing.

    The window is round(√(a r)) pixels wide and round(√(a / r)) high: a is uniform in `area` times the image's area, and
    log r uniform between the logarithms of `ratio`. The first of ten windows that fits into the image is taken. If none
    does, it is the largest window in the middle whose shape is within `ratio`. Each example has its own draw, and
    integers are rounded.

    Args:
      size: the side of the result, in pixels.
      area: smallest and largest share of the image's area. The default keeps most objects in sight, for fine-tuning on
        few images; training from random weights usually has (0.08, 1).
      ratio: smallest and largest ratio of width to height.

    Raises:
      ValueError: for a size that is not an integer of at least 1, bounds that are not positive and in order, or an area
        above 1.

    Example:
      >>> import jax, numpy as np, jtl
      >>> augment = jtl.data.augment.resized_crop(16)
      >>> augment(jax.random.key(0), np.zeros((2, 32, 24, 3), np.uint8)).shape
      (2, 16, 16, 3)
    """
    whole(1, size=size)
    if not 0 < area[0] <= area[1] <= 1:
        raise ValueError(f"area={area}: give the smallest and the largest share of the image, in (0, 1]")
    if not 0 < ratio[0] <= ratio[1] < float("inf"):
        raise ValueError(f"ratio={ratio}: give the smallest and the largest width by height, above 0")

    def draw(key: Key, x: Any) -> Int[Array, "batch 4"]:
        images_only(x)
        height, width = x.shape[1:3]
        middle = jnp.asarray(_middle(height, width, ratio))

        def one(key: Key) -> Array:
            keys = jax.random.split(key, 3)
            share = jax.random.uniform(keys[0], (TRIES,), minval=area[0], maxval=area[1])
            shape = jnp.exp(jax.random.uniform(keys[1], (TRIES,), minval=jnp.log(ratio[0]), maxval=jnp.log(ratio[1])))
            sides = jnp.stack([jnp.sqrt(share * height * width / shape), jnp.sqrt(share * height * width * shape)], -1)
            sides = jnp.round(sides).astype(jnp.int32)
            fit = ((sides >= 1) & (sides <= jnp.array([[height, width]]))).all(-1)
            chosen = sides[jnp.argmax(fit)]
            room = jnp.maximum(jnp.array([height, width]) - chosen + 1, 1)
            at = jax.random.randint(keys[2], (2,), 0, room)
            return jnp.where(fit.any(), jnp.concatenate([at, chosen]), middle)

        return jax.vmap(one)(jax.random.split(key, len(x)))

    def move(windows: Int[Array, "batch 4"], x: Any, fill: Any = 0, nearest: bool = False) -> Array:
        del fill
        x = jnp.asarray(x)
        if nearest:
            return jax.vmap(lambda one, at: _nearest(one, at, size))(x, windows)
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        moved = jax.vmap(lambda one, at: _resized(one, at, size))(wide, windows)
        if not jnp.issubdtype(x.dtype, jnp.inexact):
            moved = jnp.round(moved)
        return moved.astype(x.dtype)

    def points(
        windows: Int[Array, "batch 4"], xy: Float[Array, "batch n 2"], height: int, width: int
    ) -> Float[Array, "batch n 2"]:
        del height, width
        corners, sides = windows[:, None, 1::-1], windows[:, None, :1:-1]
        return (xy - corners) * (size / sides)

    return Geometric("resized_crop", draw, move, points, fills=False)


def _middle(height: int, width: int, ratio: tuple[float, float]) -> tuple[int, int, int, int]:
    """The largest window in the middle whose ratio of width to height is within the bounds."""
    high, wide = height, width
    if width / height < ratio[0]:
        high = max(1, min(height, round(width / ratio[0])))
    elif width / height > ratio[1]:
        wide = max(1, min(width, round(height * ratio[1])))
    return (height - high) // 2, (width - wide) // 2, high, wide


def _resized(image: Float[Array, "height width channels"], window: Int[Array, "4"], size: int) -> Array:
    """Resizes one window by two matrix products, one for each direction."""
    rows = _weights(image.shape[0], window[0], window[2], size).astype(image.dtype)
    columns = _weights(image.shape[1], window[1], window[3], size).astype(image.dtype)
    # By default an accelerator rounds float32 products, and so pixels, to 8 or 11 bits.
    return jnp.einsum("ih,hwc,jw->ijc", rows, image, columns, precision="highest")


def _weights(length: int, start: Any, extent: Any, size: int) -> Float[Array, "size length"]:
    """The weight of each pixel of a row in each pixel of the result: a triangle over two pixels of the coarser grid."""
    scale = extent / size
    centres = start + (jnp.arange(size) + 0.5) * scale
    at = jnp.arange(length)
    distance = jnp.abs(at[None] + 0.5 - centres[:, None]) / jnp.maximum(scale, 1)
    inside = (at >= start) & (at < start + extent)
    weights = jnp.where(inside[None], jnp.maximum(0, 1 - distance), 0)
    return weights / weights.sum(1, keepdims=True)


def _nearest(image: Any, window: Int[Array, "4"], size: int) -> Any:
    rows, columns = (jnp.int32(jnp.floor(window[i] + (jnp.arange(size) + 0.5) * window[i + 2] / size)) for i in (0, 1))
    return image[rows][:, columns]
