"""The points of a grid of options, the command-line words of each, and the folder of its run."""

import hashlib
import itertools
import os
from collections.abc import Mapping, Sequence

Point = dict[str, str]
FLAGS = {"true": True, "false": False}
"""The values of an option that is a flag, in upper or lower case."""


def points(grid: Sequence[str]) -> list[Point]:
    """Returns all combinations of a grid's values, in order.

    Args:
      grid: options, each with its values, such as `method=mcc,dann`; the values of a flag are `true` and `false`.

    Raises:
      ValueError: for no option, an option without values, a duplicate option, or two values that mean the same.

    Example:
      >>> from jtl.command.grid import points
      >>> points(["method=mcc,dann", "seed=0"])
      [{'method': 'mcc', 'seed': '0'}, {'method': 'dann', 'seed': '0'}]
    """
    found: dict[str, list[str]] = {}
    for given in grid:
        name, _, text = given.partition("=")
        name, values = name.strip().lstrip("-").replace("-", "_"), [v.strip() for v in text.split(",")]
        if not name or not all(values) or len(set(values)) < len(values):
            raise ValueError(f"--grid {given!r}: give an option and its different values, as method=mcc,dann")
        first: dict[str | float, str] = {}
        for value in values:
            if (other := first.setdefault(_meaning(value), value)) != value:
                raise ValueError(f"--grid {given!r}: {other!r} and {value!r} mean the same: give different values")
        if name in found:
            raise ValueError(f"--grid {given!r}: the option {name!r} is there twice; give all its values together")
        if name == "out":
            raise ValueError("--grid out: each run has a folder of its own already")
        found[name] = values
    if not found:
        raise ValueError("no --grid: give options and their values, as --grid method=mcc,dann seed=0,1,2")
    return [dict(zip(found, values, strict=True)) for values in itertools.product(*found.values())]


def _meaning(value: str) -> str | float:
    """Normalises a value, so that `0` and `00`, `1e-4` and `0.0001`, or `a` and `a/` are equal."""
    if value.lower() in FLAGS:
        return value.lower()
    try:
        return float(value)
    except ValueError:
        return os.path.normpath(value)


def words_of(point: Mapping[str, str]) -> list[str]:
    """Returns the command-line words of a point of the grid.

    Example:
      >>> words_of({"learning_rate": "0.1", "balanced": "false"})
      ['--learning-rate', '0.1', '--no-balanced']
    """
    found = []
    for name, value in point.items():
        before, dot, last = name.replace("_", "-").rpartition(".")
        if (on := FLAGS.get(value.lower())) is not None:
            found.append(f"--{before}{dot}{'' if on else 'no-'}{last}")
        else:
            found += [f"--{before}{dot}{last}", value]
    return found


def refuse_twice(command: Sequence[str], options: Sequence[str]) -> None:
    """Refuses a command that names an option of the grid, or `--out`, because the sweep sets these for each run.

    Args:
      command: the words of the command.
      options: the options of the grid.

    Raises:
      ValueError: naming the option.
    """
    for word in command:
        name = word.partition("=")[0].removeprefix("--").replace("-", "_")
        before, dot, last = name.rpartition(".")
        name = f"{before}{dot}{last.removeprefix('no_')}" if name not in options else name
        if word.startswith("--") and name == "out":
            raise ValueError(f"{word!r} after --: each run has a folder of its own within that of the sweep")
        if word.startswith("--") and name in options:
            raise ValueError(f"{word!r} after --: the grid has the option {name!r} too; give it in one place")


def name_of(point: Mapping[str, str]) -> str:
    """Returns the name of the folder for a point's run.

    A name with a slash, or a very long one, cannot name a folder. It is shortened, with `_` for slashes, and a digest
    of the values tells `a/b` from `a_b`.

    Example:
      >>> name_of({"method": "mcc", "seed": "0"})
      'method=mcc-seed=0'
    """
    text = "-".join(f"{name}={value}" for name, value in point.items())
    if "/" not in text and len(os.fsencode(text)) <= 200:  # of the 255 bytes that file systems have room for
        return text
    digest = hashlib.sha256(os.fsencode(repr(sorted(point.items())))).hexdigest()[:8]
    return f"{os.fsencode(text.replace('/', '_'))[:120].decode(errors='ignore')}-{digest}"
