"""Augmentations that move label maps and boxes with the image; functions that cannot are refused."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jtl.params import flatten, unflatten
from jtl.typing import Key

SLIVER = 1e-3
"""In pixels: a box of smaller width or height counts as empty; a rotation in float32 leaves some at the border."""


@dataclass(frozen=True)
class Photometric:
    """An augmentation that leaves every pixel in its place, and so all labels as they are.

    Args:
      name: its name, for messages.
      change: `change(key, x) -> x`.

    Example:
      >>> from jtl.data.geometry import Photometric
      >>> Photometric("inverted", lambda key, x: 255 - x)(None, 5)
      250
    """

    name: str
    change: Callable[[Any, Any], Any]

    def __call__(self, key: Key | None, x: Any) -> Any:
        """The images, changed."""
        return self.change(key, one_array(self.name, x))

    def both(self, key: Key | None, x: Any, labels: Any, fills: Mapping[str, Any]) -> tuple[Any, Any]:
        """The images, changed, and the labels as they were."""
        del fills
        return self(key, x), labels


@dataclass(frozen=True)
class Geometric:
    """An augmentation that moves pixels.

    Points are (x, y) in pixels: the pixel [row, column] covers x from column to column + 1 and y from row to row + 1.

    Args:
      name: its name, for messages.
      draw: `draw(key, x) -> drawn`, the random numbers of each example.
      move: `move(drawn, x, fill=0, nearest=False) -> x` [batch, height', width', channels]. Pixels from outside the
        image are `fill`; with `nearest` every other number is one of the image's.
      points: `points(drawn, xy [batch, n, 2], height, width) -> [batch, n, 2]`: where points of the image go.
      fills: whether pixels from outside the image may come into it.
    """

    name: str
    draw: Callable[[Any, Any], Any]
    move: Callable[..., Any]
    points: Callable[[Any, Any, int, int], Any]
    fills: bool = True

    def __call__(self, key: Key, x: Any) -> Any:
        """The images, moved."""
        return self.move(self.draw(key, one_array(self.name, x)), x)

    def both(self, key: Key, x: Any, labels: Any, fills: Mapping[str, Any]) -> tuple[Any, Any]:
        """The images and their labels, moved alike; see `moved_together`."""
        drawn = self.draw(key, x)
        moved = self.move(drawn, x)
        maps, boxes = spatial(labels, x)
        flat = flatten(labels)
        for path in maps:
            flat[path] = self._map(drawn, flat[path], fills.get(path.split("/")[0]))
        for path in boxes:
            flat[path], there = self._boxes(drawn, flat[path], x.shape[1:3], moved.shape[1:3])
            for name, gone in (("classes", -1), ("weights", 0)):
                beside = f"{path.rpartition('/')[0]}/{name}"
                if beside in flat:
                    given = jnp.asarray(flat[beside])
                    flat[beside] = jnp.where(there, given, jnp.asarray(gone, given.dtype))
        return moved, unflatten(flat)

    def _map(self, drawn: Any, values: Any, fill: Any) -> Any:
        values = jnp.asarray(values)
        if self.fills and fill is None:
            raise ValueError(
                f"{self.name} brings pixels from outside of the image into a label map: say which label they get, as"
                " augmented(..., ignore=255)"
            )
        value = 0 if fill is None else fill
        if jnp.issubdtype(values.dtype, jnp.integer):
            info = jnp.iinfo(values.dtype)
            if not info.min <= value <= info.max:
                raise ValueError(f"ignore={value}: a label map of {values.dtype} holds {info.min} to {info.max}")
        planes = values.reshape(*values.shape[:3], -1)
        moved = self.move(drawn, planes, fill=value, nearest=True)
        return moved.reshape(*moved.shape[:3], *values.shape[3:])

    def _boxes(self, drawn: Any, boxes: Any, before: tuple[int, ...], after: tuple[int, ...]) -> tuple[Any, Any]:
        boxes = jnp.asarray(boxes)
        wide = boxes.astype(jnp.promote_types(boxes.dtype, jnp.float32))
        batch, n, _ = boxes.shape
        x0, y0, x1, y1 = jnp.moveaxis(wide, -1, 0)
        corners = jnp.stack([jnp.stack([x, y], -1) for x in (x0, x1) for y in (y0, y1)], 2)
        moved = self.points(drawn, corners.reshape(batch, 4 * n, 2), *before).reshape(batch, n, 4, 2)
        limits = jnp.asarray(after[::-1], wide.dtype).reshape(1, 1, 2)
        new = jnp.concatenate([jnp.clip(edge, 0, limits) for edge in (moved.min(2), moved.max(2))], -1)
        new = new if jnp.issubdtype(boxes.dtype, jnp.floating) else jnp.round(new)
        there = (x1 > x0) & (y1 > y0) & (new[..., 2:] - new[..., :2] > SLIVER).all(-1)
        return jnp.where(there[..., None], new, 0).astype(boxes.dtype), there


@dataclass(frozen=True)
class Composed:
    """Augmentations applied one after another, each with a key of its own (`fold_in(key, place)`)."""

    parts: tuple[Callable[[Any, Any], Any], ...]

    def __call__(self, key: Key | None, x: Any) -> Any:
        """The images, after all of them."""
        for part, own in self._keys(key):
            x = part(own, x)
        return x

    def both(self, key: Key | None, x: Any, labels: Any, fills: Mapping[str, Any]) -> tuple[Any, Any]:
        """The images and their labels, after all of them."""
        for part, own in self._keys(key):
            x, labels = moved_together(part, own, x, labels, fills)
        return x, labels

    def _keys(self, key: Key | None) -> list[tuple[Callable, Any]]:
        return [(part, None if key is None else jax.random.fold_in(key, i)) for i, part in enumerate(self.parts)]


def moved_together(
    augment: Callable[[Any, Any], Any], key: Any, x: Any, labels: Any, fills: Mapping[str, Any]
) -> tuple[Any, Any]:
    """Moves images and their label maps and boxes alike; the images are those of `augment(key, x)`.

    Label maps take the nearest label. Boxes [batch, n, 4] become the smallest boxes around their moved corners, cut off
    at the image's borders. Boxes without area become `0, 0, 0, 0`; if the same dict has `classes` [batch, n] or
    `weights` [batch, n], theirs become -1 and 0.

    Args:
      augment: a `Photometric`, a `Geometric`, or a `Composed` of these.
      key: the key of the augmentation.
      x: [batch, height, width, channels].
      labels: trees by name, in which the parts that `spatial` finds move.
      fills: by the same names, the label of pixels from outside the image.

    Raises:
      ValueError: for another function, with its name; for a map that needs a fill and has none, or whose type cannot
        hold it.
    """
    if not isinstance(augment, Photometric | Geometric | Composed):
        name = getattr(augment, "__qualname__", type(augment).__name__)
        raise ValueError(
            f"{name} does not say where pixels go, and the labels are maps or boxes: give"
            f" jtl.data.geometry.Photometric({name!r}, ...) where it leaves them in place, else Geometric"
        )
    return augment.both(key, x, labels, fills)


def moves(augment: Callable[[Any, Any], Any]) -> bool:
    """Whether an augmentation may move pixels; an unknown function may."""
    if isinstance(augment, Composed):
        return any(moves(part) for part in augment.parts)
    return not isinstance(augment, Photometric)


def spatial(labels: Any, x: Any) -> tuple[list[str], list[str]]:
    """The paths of the maps and of the boxes in a tree of labels.

    Boxes are [batch, n, 4] and named `boxes`. Maps are [batch, height, width, ...] with the image's height and width.
    Labels with two dimensions or fewer, such as classes, belong to rows, and so do all labels if `x` is not an image.

    Raises:
      ValueError: for labels with more dimensions that are neither.
    """
    maps: list[str] = []
    boxes: list[str] = []
    if getattr(x, "ndim", 0) != 4:
        return maps, boxes
    for path, leaf in flatten(labels).items():
        shape = max((tuple(np.shape(part)) for part in jax.tree.leaves(leaf)), key=len, default=())
        if path.rpartition("/")[2] == "boxes" and len(shape) == 3 and shape[-1] == 4:
            boxes.append(path)
        elif len(shape) > 2 and shape[:3] == tuple(x.shape[:3]) and hasattr(leaf, "shape"):
            maps.append(path)
        elif len(shape) > 2:
            raise ValueError(
                f"labels {path!r} of shape {shape} cannot move with images of shape {tuple(x.shape)}: give maps of the"
                " image's height and width, or boxes [batch, n, 4] by the name 'boxes'"
            )
    return maps, boxes


def one_array(name: str, x: Any) -> Any:
    """The input as it is; a dict of several arrays is refused, because only some of them may be changed.

    Raises:
      TypeError: for a dict, such as one of sounds and their mask.
    """
    if isinstance(x, Mapping):
        raise TypeError(
            f"{name} was given the arrays {sorted(x)}: change one of them, as lambda key, x: {{**x, 'wave': change(key,"
            " x['wave'])}"
        )
    return x


def images_only(x: Any) -> None:
    """Refuses arrays that are not a batch of images.

    Raises:
      ValueError: for a number of axes other than four.
    """
    if x.ndim != 4:  # another axis would be mistaken for the width
        raise ValueError(
            f"images of shape {x.shape}: give [batch, height, width, channels]; a task's images are augmented by"
            " episodes(augment=...), or as the inner objective's"
        )
