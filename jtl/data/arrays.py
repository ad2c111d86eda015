"""Arrays in memory as a data set."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

from jtl.checked import integer
from jtl.data.content import of_arrays
from jtl.data.pipeline import Dataset, composed, distinct


def arrays(
    x: Any,
    y: Any = None,
    *,
    batch_size: int,
    seed: int = 0,
    shuffle: bool = True,
    drop_last: bool = False,
    classes: int | np.integer | Sequence[str] | None = None,
    ignore: int | None = None,
    process_index: int | None = None,
    process_count: int | None = None,
) -> Dataset:
    """Makes a data set of arrays in memory.

    Args:
      x: [examples, ...], or a dict of such arrays. 64-bit numbers are read as 32-bit ones.
      y: labels [examples, ...]: integers, floats (soft labels, targets of a regression), or names from `classes`, whose
        places there are the labels; or a dict of arrays of numbers or booleans, such as {"start", "end", "allowed"} for
        a span in a text; or None.
      batch_size: the number of rows of the global batch.
      seed: the seed of the order.
      shuffle: whether to use another order in each epoch; False for evaluation.
      drop_last: leave out the last partial batch instead of padding it.
      classes: the number of classes or their names; labels must then lie in [0, classes). Not for a dict of labels.
      ignore: an additional integer label, such as -100 or 255, for elements that do not count.
      process_index: see `Dataset`.
      process_count: see `Dataset`.

    Returns:
      A `Dataset` of {"x", "y", "mask"}; y is int32 or float32.

    Raises:
      ValueError: for lengths that differ, no examples, NaN, numbers too large for 32 bits, masked numbers, labels out
        of range, soft labels of another number of classes, or a class that is listed twice; the first bad row is named.
        Also for `classes` with a dict of labels.
      TypeError: for arrays that do not hold numbers, such as names without `classes`.

    Example:
      >>> import numpy as np, jtl
      >>> data = jtl.data.arrays(np.zeros((5, 2)), np.array([0, 1, 0, 1, 0]), batch_size=3, classes=2)
      >>> len(data), data[0]["x"].shape, data[1]["mask"].tolist()
      (2, (3, 2), [True, True, False])
    """
    names = names_of(classes)
    columns = {name: numbers(f"x[{name!r}]", value) for name, value in x.items()} if isinstance(x, Mapping) else x
    if isinstance(columns, dict):
        if not columns:
            raise ValueError("x is an empty dict; it must hold at least one array")
        sizes = {f"x[{name!r}]": len(value) for name, value in columns.items()}
    else:
        columns = numbers("x", columns)
        sizes = {"x": len(columns)}
    if isinstance(y, Mapping):
        if names is not None or not y:
            raise ValueError(f"classes={classes!r} and y of {sorted(y)}: classes name the labels of one array")
        y = {name: _part(f"y[{name!r}]", value, ignore) for name, value in y.items()}
        sizes |= {f"y[{name!r}]": len(value) for name, value in y.items()}
    elif y is not None:
        y = labels_of("y", y, names, ignore)
        sizes["y"] = len(y)
    if len(set(sizes.values())) > 1:
        raise ValueError(f"arrays differ in length: {sizes}")
    source = _Arrays(columns, y, next(iter(sizes.values())), names)
    return Dataset(source, batch_size, seed, shuffle, drop_last, process_index, process_count)


def names_of(classes: int | np.integer | Sequence[str] | None) -> tuple[str, ...] | None:
    """The names of classes that are given by name or number; None if none are given; see `arrays` for the rest."""
    if classes is None:
        return None
    names = distinct([str(i) for i in range(int(classes))] if isinstance(classes, int | np.integer) else classes)
    if not names:
        raise ValueError(f"classes is {classes!r}; give at least one")
    return names


@dataclass(frozen=True)
class _Arrays:
    x: Any
    y: Any
    size: int
    classes: tuple[str, ...] | None

    @property
    def content(self) -> str:
        return of_arrays({"x": self.x, "y": self.y})

    def read(self, index: np.ndarray, draws: Sequence[tuple[int, ...]]) -> dict[str, Any]:
        x = self.x
        taken = {k: _narrow(v[index]) for k, v in x.items()} if isinstance(x, dict) else _narrow(x[index])
        if self.y is None:
            return {"x": taken}
        y = {k: v[index] for k, v in self.y.items()} if isinstance(self.y, dict) else self.y[index]
        return {"x": taken, "y": y}


def _narrow(value: np.ndarray) -> np.ndarray:
    kinds = {"f": np.float32, "i": np.int32, "u": np.uint32}
    kind = kinds.get(value.dtype.kind) if value.dtype.itemsize > 4 else None
    return value if kind is None else value.astype(kind)


def numbers(name: str, value: Any) -> np.ndarray:
    """The array, after a check that 32 bits hold its numbers; see `arrays` for what it refuses."""
    if np.ma.is_masked(value):
        raise ValueError(
            f"{name} has masked values, which would be read as numbers; fill them, or leave their rows out"
        )
    value = np.asarray(value)
    number = jnp.issubdtype(value.dtype, np.number) or value.dtype == bool
    if value.dtype.kind == "m" or not number:
        raise TypeError(f"{name} has dtype {value.dtype}; it must be an array of numbers")
    if value.ndim == 0:
        raise ValueError(f"{name} is a scalar; it must have a leading axis of examples")
    inexact = jnp.issubdtype(value.dtype, np.inexact)  # bfloat16 too, which numpy does not know to be inexact
    if not inexact and value.dtype.itemsize < 8:
        return value
    for start in range(0, len(value), 4096):  # in parts, for arrays mapped from disk
        part = value[start : start + 4096]
        with np.errstate(over="ignore"):
            held = _narrow(part)
        bad = np.isnan(part) if inexact else held != part
        if inexact and held is not part:
            bad |= np.isinf(held) & ~np.isinf(part)
        if bad.any():
            row, *rest = np.argwhere(bad)[0]
            first = part[(row, *rest)]
            which = "NaN" if inexact and np.isnan(first) else f"{first}, too large for 32 bits,"
            raise ValueError(f"{name} is {which} in row {start + int(row)}")
    return value


def _part(name: str, value: Any, ignore: int | None) -> np.ndarray:
    found = np.asarray(value)
    return found if found.dtype == bool else labels_of(name, value, None, ignore)


def _places(name: str, y: Any, names: tuple[str, ...] | None) -> Any:
    """Names as their places among the classes; other labels as they are."""
    given = np.asarray(y)
    objects = given.dtype == object and given.size and all(isinstance(v, str) for v in given.flat)
    if given.dtype.kind not in "UT" and not objects:
        return y
    if names is None:
        some = sorted(set(map(str, given.flat)))[:5]
        raise TypeError(
            f"{name} holds names, as {some}, and labels are numbers: for one array y give classes=, all names in their"
            " order, by which they become numbers"
        )
    place, found = {one: i for i, one in enumerate(names)}, [composed(v) for v in given.flat]
    if (unknown := next((one for one in found if one not in place), None)) is not None:
        raise ValueError(f"{name} holds {str(unknown)!r}, which is none of classes={list(names)}")
    return np.array([place[one] for one in found], np.int32).reshape(given.shape)


def labels_of(name: str, y: Any, names: tuple[str, ...] | None, ignore: int | None) -> np.ndarray:
    """Labels as int32, or targets and soft labels as float32; see `arrays` for what it refuses."""
    if ignore is not None and not integer(ignore):
        raise ValueError(f"ignore={ignore!r}: give an integer label, as -100")
    y = numbers(name, _places(name, y, names))
    if y.dtype.kind == "f":
        if names is not None and y.ndim > 1 and y.shape[-1] != len(names):
            raise ValueError(f"{name} has soft labels of {y.shape[-1]} classes, and there are {len(names)}")
        return y.astype(np.float32)
    if y.dtype.kind not in "iu":
        raise TypeError(f"{name} has dtype {y.dtype}; labels are integers, targets and soft labels floats")
    bad = (y < 0) | (y >= (len(names) if names else np.iinfo(np.int32).max))
    if ignore is not None:
        bad &= y != ignore
    if bad.any():
        where = tuple(int(i) for i in np.argwhere(bad)[0])
        limit = f"[0, {len(names)}), for there are {len(names)} classes" if names else "0 or more"
        limit += "" if ignore is None else f", or {ignore}"
        limit += f"; ignore={y[where]} lets it mark what does not count" if ignore is None and y[where] < 0 else ""
        limit += "; numbers to predict are given as floats" if names is None and ignore is None else ""
        from_one = names is not None and y.min() == 1 and y.max() == len(names)
        if names is not None:
            limit += "; these count from 1: subtract 1" if from_one else f"; the largest is {y.max()}"
        raise ValueError(f"{name}{list(where)} is {y[where]}; labels must be {limit}")
    return y.astype(np.int32)
