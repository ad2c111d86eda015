"""RandAugment and TrivialAugment on the device: a random operation of random strength for each image."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt8

from jtl.checked import whole
from jtl.data.appearance import LUMA
from jtl.data.augment import Augment
from jtl.data.geometry import Composed, Geometric, images_only
from jtl.typing import Key

MOVES = ("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate")
"""Operations that move pixels; the others are in `CHANGES`."""


def rand_augment(operations: int = 2, magnitude: int = 9, bins: int = 31) -> Augment:
    """RandAugment: `operations` operations one after another, each drawn uniformly from the 14, at one magnitude.

    Images are uint8 with 3 channels. The operations, their ranges and the rounding are torchvision's: shear to .3,
    translation to 150/331 of the side, rotation to 30°, brightness, colour, contrast and sharpness to 1 ± .9, posterize
    to 4 bits, solarize from 255 to 0, autocontrast, equalize; signs are random. Moved images take the nearest pixel, or
    0 outside the image; with `jtl.augmented`, label maps and boxes move along, operation by operation.

    Args:
      operations: N, at least 1.
      magnitude: M in [0, bins).
      bins: the number of steps into which the range of each operation is divided, at least 2.

    Raises:
      ValueError: for numbers out of range; while tracing, for images that are not uint8 with 3 channels.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jtl.data import policies
      >>> policies.rand_augment()(jax.random.key(0), jnp.ones((2, 8, 10, 3), jnp.uint8)).shape
      (2, 8, 10, 3)

    Cubuk et al., RandAugment: Practical automated data augmentation with a reduced search space, 2019, arXiv
    1909.13719.
    """
    whole(1, operations=operations)
    whole(2, bins=bins)
    if not 0 <= magnitude < bins:
        raise ValueError(f"magnitude={magnitude}: lies in [0, bins), and bins={bins}")

    def one(key: Key, shape: tuple[int, ...]) -> tuple[Any, Any]:
        of_name, of_sign = jax.random.split(key)
        share, sign = magnitude / (bins - 1), jax.random.rademacher(of_sign, (), jnp.float32)
        return _ranged(jax.random.randint(of_name, (), 0, 14), share, sign, shape, False)

    return Composed((_policy("rand_augment", one),) * operations)


def trivial_augment(bins: int = 31) -> Augment:
    """TrivialAugment (wide): one operation for each image, drawn uniformly from the 14, at a uniform magnitude.

    Like `rand_augment`, with the wide ranges: shear to .99, translation to 32 pixels, rotation to 135°, brightness,
    colour, contrast and sharpness to 1 ± .99, posterize to 2 bits.

    Args:
      bins: the number of steps into which the range of each operation is divided, at least 2.

    Raises:
      ValueError: for fewer bins; while tracing, for images that are not uint8 with 3 channels.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jtl.data import policies
      >>> policies.trivial_augment()(jax.random.key(0), jnp.ones((2, 8, 10, 3), jnp.uint8)).shape
      (2, 8, 10, 3)

    Müller and Hutter, TrivialAugment: Tuning-free Yet State-of-the-Art Data Augmentation, 2021, arXiv 2103.10158.
    """
    whole(2, bins=bins)

    def one(key: Key, shape: tuple[int, ...]) -> tuple[Any, Any]:
        of_name, of_size, of_sign = jax.random.split(key, 3)
        share = jax.random.randint(of_size, (), 0, bins) / (bins - 1)
        sign = jax.random.rademacher(of_sign, (), jnp.float32)
        return _ranged(jax.random.randint(of_name, (), 0, 14), share, sign, shape, True)

    return _policy("trivial_augment", one)


def operate(image: UInt8[Array, "height width 3"], place: Int[Array, ""], value: Float[Array, ""]) -> Array:
    """Applies the operation at a place in `NAMES` to one image, with a magnitude in that operation's own unit.

    Example:
      >>> import jax.numpy as jnp
      >>> from jtl.data import policies
      >>> image = jnp.full((4, 4, 3), 100, jnp.uint8)
      >>> policies.operate(image, jnp.array(policies.NAMES.index("Brightness")), jnp.array(0.5))[0, 0].tolist()
      [50, 50, 50]
    """
    moved = _moved(image, place, value)
    changes = [change for _, change in CHANGES]
    return jax.lax.switch(jnp.maximum(place - len(MOVES), -1) + 1, [lambda x, v: x, *changes], moved, value)


def _policy(name: str, one: Callable[[Key, tuple[int, ...]], tuple[Any, Any]]) -> Geometric:
    """The augmentation by one operation per image, drawn by `one(key, shape of the image) -> (place, magnitude)`."""

    def draw(key: Key, x: Any) -> tuple[Array, Array]:
        images_only(x)
        if x.dtype != jnp.uint8 or x.shape[-1] != 3:
            raise ValueError(
                f"{name} needs uint8 images of 3 channels, got {x.dtype} {x.shape}; put normalise behind it"
            )
        return jax.vmap(lambda own: one(own, x.shape[1:]))(jax.random.split(key, len(x)))

    def move(drawn: tuple[Array, Array], x: Any, fill: Any = 0, nearest: bool = False) -> Array:
        x = jnp.asarray(x)
        if nearest:  # a label map, whose numbers are not colours
            return jax.vmap(lambda image, place, value: _moved(image, place, value, fill))(x, *drawn)
        return jax.vmap(operate)(x, *drawn)

    def points(drawn: tuple[Array, Array], xy: Any, height: int, width: int) -> Array:
        return jax.vmap(lambda of, place, value: _points(of, place, value, height, width))(xy, *drawn)

    return Geometric(name, draw, move, points)


def _ranged(place: Any, share: Any, sign: Any, shape: tuple[int, ...], wide: bool) -> tuple[Any, Any]:
    """The operation's place in `NAMES` and its magnitude, for a share in [0, 1] of its range."""
    height, width = shape[:2]
    shear, turn, change, bits = (0.99, 135.0, 0.99, 6) if wide else (0.3, 30.0, 0.9, 4)
    x, y = (32.0, 32.0) if wide else (150 / 331 * width, 150 / 331 * height)
    share = jnp.asarray(share, jnp.float32)
    signed = sign * share
    values = [signed * shear, signed * shear, jnp.trunc(signed * x), jnp.trunc(signed * y), signed * turn]
    values += [1 + signed * change] * 4
    values += [8 - jnp.round(share * bits), 255 * (1 - share), jnp.zeros(()), jnp.zeros(()), jnp.zeros(())]
    return place, jnp.stack(values)[place]


def _moved(image: Array, place: Any, value: Any, fill: Any = 0) -> Array:
    """One gather for all operations that move pixels: `source = A (p − c) + c − t` for each pixel p of the result."""
    height, width = image.shape[:2]
    (xx, xy, yx, yy), (cx, cy), (tx, ty) = _affine(place, value, height, width)
    x, y = jnp.arange(width)[None] + 0.5 - cx, jnp.arange(height)[:, None] + 0.5 - cy  # centres lie at halves
    from_x, from_y = xx * x + xy * y + cx - tx, yx * x + yy * y + cy - ty
    column, row = jnp.floor(from_x).astype(jnp.int32), jnp.floor(from_y).astype(jnp.int32)
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    return jnp.where(inside[..., None], image[row, column], jnp.asarray(fill, image.dtype))


def _points(xy: Array, place: Any, value: Any, height: int, width: int) -> Array:
    """Where points [n, 2] of the image go: the inverse of `_moved`'s map, whose determinant is 1."""
    (m_xx, m_xy, m_yx, m_yy), (cx, cy), (tx, ty) = _affine(place, value, height, width)
    x, y = xy[:, 0] - cx + tx, xy[:, 1] - cy + ty
    return jnp.stack([m_yy * x - m_xy * y + cx, m_xx * y - m_yx * x + cy], -1).astype(xy.dtype)


def _affine(place: Any, value: Any, height: int, width: int) -> tuple[tuple, tuple, tuple]:
    """The matrix A by rows, the fixed point c and the shift t of an operation."""
    at = [jnp.where(place == i, value, 0.0) for i in range(len(MOVES))]
    cos, sin = jnp.cos(jnp.deg2rad(at[4])), jnp.sin(jnp.deg2rad(at[4]))
    turned = place == MOVES.index("Rotate")  # about the middle; shears are about the corner
    middle = jnp.where(turned, width / 2, 0.0), jnp.where(turned, height / 2, 0.0)
    return (cos, -sin - at[0], sin - at[1], cos), middle, (at[2], at[3])


def _blend(image: Array, other: Array, factor: Any) -> Array:
    """`f x + (1 − f) z` in [0, 255], cut off towards 0 as PIL does."""
    mixed = other + factor * (image.astype(jnp.float32) - other)
    return jnp.clip(mixed, 0, 255).astype(jnp.uint8)


def _grey(image: Array) -> Array:
    """PIL's integer luma, [height, width]."""
    weights = jnp.asarray([round(w * 65536) for w in LUMA], jnp.int32)
    return (((image.astype(jnp.int32) * weights.reshape(1, 1, 3)).sum(-1) + 32768) >> 16).astype(jnp.float32)


def _brightness(image: Array, value: Any) -> Array:
    return _blend(image, jnp.zeros_like(image, jnp.float32), value)


def _color(image: Array, value: Any) -> Array:
    return _blend(image, _grey(image)[..., None], value)


def _contrast(image: Array, value: Any) -> Array:
    return _blend(image, jnp.floor(_grey(image).mean() + 0.5), value)


def _sharpness(image: Array, value: Any) -> Array:
    x = image.astype(jnp.float32)
    around = sum(x[i : i + x.shape[0] - 2, j : j + x.shape[1] - 2] for i in range(3) for j in range(3))
    smooth = jnp.floor((around + 4 * x[1:-1, 1:-1]) / 13 + 0.5)
    return _blend(image, x.at[1:-1, 1:-1].set(smooth), value)  # the border stays


def _posterize(image: Array, value: Any) -> Array:
    kept = jnp.left_shift(jnp.uint32(255), (8 - value).astype(jnp.uint32)).astype(jnp.uint8)
    return image & kept


def _solarize(image: Array, value: Any) -> Array:
    return jnp.where(image.astype(jnp.float32) < value, image, 255 - image)


def _autocontrast(image: Array, value: Any) -> Array:
    del value
    x = image.astype(jnp.float32)
    low, high = x.min((0, 1), keepdims=True), x.max((0, 1), keepdims=True)
    scale = 255 / jnp.maximum(high - low, 1)
    stretched = jnp.clip((x - low) * scale + 1e-3, 0, 255)  # a whole product may round to a little less
    return jnp.where(high > low, stretched.astype(jnp.uint8), image)


def _equalize(image: Array, value: Any) -> Array:
    del value

    def channel(plane: Array) -> Array:
        counts = jnp.zeros(256, jnp.int32).at[plane.reshape(-1)].add(1)
        last = counts[plane.max()]
        step = (counts.sum() - last) // 255
        before = jnp.cumsum(counts) - counts
        table = jnp.clip((before + step // 2) // jnp.maximum(step, 1), 0, 255).astype(jnp.uint8)
        return jnp.where(step > 0, table[plane], plane)

    return jax.vmap(channel, -1, -1)(image)


CHANGES: tuple[tuple[str, Callable[[Array, Any], Array]], ...] = (
    ("Brightness", _brightness),
    ("Color", _color),
    ("Contrast", _contrast),
    ("Sharpness", _sharpness),
    ("Posterize", _posterize),
    ("Solarize", _solarize),
    ("AutoContrast", _autocontrast),
    ("Equalize", _equalize),
    ("Identity", lambda image, value: image),
)
"""Operations that change colours, with `change(image, magnitude)`."""

NAMES = (*MOVES, *(name for name, _ in CHANGES))
"""The names of the operations, in the order of their places."""
