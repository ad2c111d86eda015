"""Augmentation on the device: pure functions `(key, x) -> x` of a batch of images [batch, height, width, channels].

Each constructor returns such a function; every example has its own random draw. The functions work under `jit` and
`vmap`, and can move label maps and boxes with the image (`jtl.data.geometry`).
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Shaped

from jtl import checked
from jtl._tracing import scope
from jtl.data.geometry import Composed, Geometric, Photometric, images_only
from jtl.data.resized_crop import resized_crop as resized_crop
from jtl.typing import Key

Augment: TypeAlias = Callable[[Any, Any], Any]
Images: TypeAlias = Shaped[Array | np.ndarray, "_batch _height _width _channels"]
BRIGHTEST = 4.0
"""Float images lie in [0, 1], or with noise a little outside; a larger number is on another scale."""


def compose(*augments: Augment) -> Augment:
    """Applies the functions one after another, each with a key of its own (`fold_in(key, place)`).

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jtl.data import augment
      >>> both = augment.compose(augment.flip(), augment.normalise([0.5], [0.5]))
      >>> both(jax.random.key(0), jnp.zeros((2, 4, 4, 1))).ravel()[0].item()
      -1.0
    """
    return Composed(augments)


def flip(probability: float = 0.5, *, vertical: bool = False) -> Augment:
    """Mirrors left and right, or up and down if `vertical`, each example with this probability.

    Raises:
      ValueError: for a probability outside [0, 1].

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jtl.data import augment
      >>> augment.flip(1.0)(jax.random.key(0), jnp.array([1.0, 2.0]).reshape(1, 1, 2, 1)).ravel().tolist()
      [2.0, 1.0]
    """
    checked.within("[0, 1]", probability=probability)

    def draw(key: Key, x: Any) -> Array:
        images_only(x)
        return jax.random.bernoulli(key, probability, (len(x), 1, 1, 1))

    def move(chosen: Array, x: Images, fill: Any = 0, nearest: bool = False) -> Array:
        del fill, nearest
        x = jnp.asarray(x)
        return jnp.where(chosen, jnp.flip(x, 1 if vertical else 2), x)

    def points(chosen: Array, xy: Float[Array, "batch n 2"], height: int, width: int) -> Float[Array, "batch n 2"]:
        there, (x, y) = chosen[:, :, 0, 0], jnp.moveaxis(xy, -1, 0)
        if vertical:
            return jnp.stack([x, jnp.where(there, height - y, y)], -1)
        return jnp.stack([jnp.where(there, width - x, x), y], -1)

    return Geometric("flip", draw, move, points, fills=False)


def crop(size: int, padding: int = 0) -> Augment:
    """Crops a window [size, size] at a uniformly random place of the image with `padding` zeros around it.

    Raises:
      ValueError: for a size that is not an integer of at least 1, or a padding that is not an integer of at least 0;
        when it is applied, for a window that does not fit.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jtl.data import augment
      >>> augment.crop(8, padding=1)(jax.random.key(0), jnp.ones((2, 8, 8, 3))).shape
      (2, 8, 8, 3)
    """
    checked.whole(1, size=size)
    checked.whole(0, padding=padding)

    def draw(key: Key, x: Any) -> Array:
        images_only(x)
        height, width = (side + 2 * padding for side in x.shape[1:3])
        if size > min(height, width):
            raise ValueError(f"a crop of {size} does not fit {height} x {width} (padding of {padding} included)")
        room = jnp.array([height - size + 1, width - size + 1])
        return jax.random.randint(key, (len(x), 2), 0, jnp.broadcast_to(room, (len(x), 2)))

    def move(corners: Array, x: Images, fill: Any = 0, nearest: bool = False) -> Array:
        del nearest
        x = jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)), constant_values=fill)
        whole = (size, size, x.shape[-1])
        return jax.vmap(lambda one, at: jax.lax.dynamic_slice(one, (at[0], at[1], 0), whole))(x, corners)

    def points(corners: Array, xy: Float[Array, "batch n 2"], height: int, width: int) -> Float[Array, "batch n 2"]:
        del height, width
        return xy + padding - corners[:, None, ::-1]

    return Geometric("crop", draw, move, points, fills=padding > 0)


def rotate(degrees: float) -> Augment:
    """Rotates each example by an angle uniform in [-degrees, degrees]; see `rotate_by`.

    Raises:
      ValueError: for an angle that is negative or not finite.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jtl.data import augment
      >>> augment.rotate(15)(jax.random.key(0), jnp.ones((2, 4, 4, 3))).shape
      (2, 4, 4, 3)
    """
    checked.within("[0, inf)", degrees=degrees)  # with the bounds the other way round every draw is the same

    def draw(key: Key, x: Any) -> Array:
        images_only(x)
        return jax.random.uniform(key, (len(x),), minval=-degrees, maxval=degrees)

    def move(angles: Array, x: Images, fill: Any = 0, nearest: bool = False) -> Array:
        return _nearest_turned(x, angles, fill) if nearest else rotate_by(x, angles)

    def points(angles: Array, xy: Float[Array, "batch n 2"], height: int, width: int) -> Float[Array, "batch n 2"]:
        centre = jnp.asarray([width / 2, height / 2], xy.dtype).reshape(1, 1, 2)
        cos, sin = (f(jnp.deg2rad(angles))[:, None] for f in (jnp.cos, jnp.sin))
        x, y = jnp.moveaxis(xy - centre, -1, 0)  # y grows downwards
        return jnp.stack([cos * x + sin * y, cos * y - sin * x], -1) + centre

    return Geometric("rotate", draw, move, points)


def rotate_by(x: Images, degrees: Float[Array | np.ndarray, "batch"]) -> Array:
    """Rotates images counter-clockwise about their centre, bilinearly, zeros outside; integers and bools are rounded.

    Args:
      x: [batch, height, width, channels].
      degrees: the angle of each image, [batch].

    Example:
      >>> import jax.numpy as jnp
      >>> from jtl.data import augment
      >>> x = jnp.array([[1, 2], [3, 4]]).reshape(1, 2, 2, 1)
      >>> augment.rotate_by(x, jnp.array([90.0]))[0, ..., 0].tolist()
      [[2, 4], [1, 3]]
    """
    images_only(x)

    def one(image: Any, angle: Any) -> Any:
        turn = partial(jax.scipy.ndimage.map_coordinates, coordinates=_sources(angle, *image.shape[:2]), order=1)
        return jax.vmap(turn, in_axes=-1, out_axes=-1)(image.astype(jnp.float32))

    turned = jax.vmap(one)(jnp.asarray(x), jnp.asarray(degrees))
    if not jnp.issubdtype(x.dtype, jnp.inexact):
        turned = jnp.round(turned)
    return turned.astype(x.dtype)


def _sources(angle: Any, height: int, width: int) -> list[Array]:
    """The row and column [height, width] from which each pixel of an image rotated by this angle comes."""
    rows, columns = jnp.meshgrid(
        jnp.arange(height) - (height - 1) / 2, jnp.arange(width) - (width - 1) / 2, indexing="ij"
    )
    cos, sin = jnp.cos(jnp.deg2rad(angle)), jnp.sin(jnp.deg2rad(angle))
    return [cos * rows + sin * columns + (height - 1) / 2, cos * columns - sin * rows + (width - 1) / 2]


def _nearest_turned(x: Images, degrees: Float[Array, "batch"], fill: Any) -> Array:
    """Like `rotate_by`, but takes the numbers of the nearest pixel as they are."""

    def one(image: Any, angle: Any) -> Any:
        rows, columns = (jnp.round(at).astype(jnp.int32) for at in _sources(angle, *image.shape[:2]))
        inside = (rows >= 0) & (rows < image.shape[0]) & (columns >= 0) & (columns < image.shape[1])
        return jnp.where(inside[..., None], image[rows, columns], jnp.asarray(fill, image.dtype))

    return jax.vmap(one)(jnp.asarray(x), degrees)


def noise(std: float) -> Augment:
    """Adds independent Gaussian noise of this standard deviation to every number of a float image.

    Raises:
      ValueError: for a deviation that is negative or not finite.
      TypeError: when it is applied, for images that are not floating.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jtl.data import augment
      >>> augment.noise(0.1)(jax.random.key(0), jnp.ones((2, 4, 4, 3))).shape
      (2, 4, 4, 3)
    """
    checked.within("[0, inf)", std=std)

    def apply(key: Key, x: Images) -> Images:
        if not jnp.issubdtype(x.dtype, jnp.floating):
            raise TypeError(f"noise needs float images, got {x.dtype}; put normalise before it")
        return x + std * jax.random.normal(key, x.shape, x.dtype)

    return Photometric("noise", apply)


def normalise(mean: Sequence[float], std: Sequence[float]) -> Augment:
    """(x / 255 - mean) / std for integer images, (x - mean) / std for float images in [0, 1] and for bool images.

    The key is not used. Floats of 0 to 255 would be taken for very bright images: above `BRIGHTEST` they are refused,
    or, inside `jit`, where values are not known, they become NaN, which stops training.

    Args:
      mean: one number per channel.
      std: one positive number per channel.

    Raises:
      ValueError: for numbers that are not finite, or a deviation that is not positive; when it is applied, for another
        number of channels, or floats above `BRIGHTEST`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jtl.data import augment
      >>> augment.normalise([0.5], [0.5])(jax.random.key(0), jnp.array([0.0, 1.0]).reshape(2, 1, 1, 1)).ravel().tolist()
      [-1.0, 1.0]
    """
    if not len(mean) or len(mean) != len(std):
        raise ValueError(f"mean {tuple(mean)} and std {tuple(std)} must be equally long, not empty")
    checked.within("(-inf, inf)", **checked.each("mean", mean))
    checked.positive(**checked.each("std", std))
    shape = (1, 1, 1, len(mean))

    def apply(key: Key | None, x: Images) -> Images:
        if x.shape[-1] != len(mean):
            raise ValueError(f"images have {x.shape[-1]} channels, mean and std have {len(mean)}")
        x = jnp.asarray(x)
        if not jnp.issubdtype(x.dtype, jnp.floating):
            x = x.astype(jnp.float32) / (1 if x.dtype == bool else 255)
        elif isinstance(x, Tracer):
            scope.note("normalise")
            x = jnp.where(x > BRIGHTEST, jnp.nan, x)
        elif x.size and float(x.max()) > BRIGHTEST:
            raise ValueError(
                f"float images reach {float(x.max()):g}: give floats in [0, 1], or the integers 0 to 255 as they are"
            )
        return (x - jnp.array(mean, x.dtype).reshape(shape)) / jnp.array(std, x.dtype).reshape(shape)

    return Photometric("normalise", apply)
