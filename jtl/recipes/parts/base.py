"""The interface of a recipe, which the commands use."""

import dataclasses
import os
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from jtl.model import Model, Variables
from jtl.params import Table
from jtl.paths import local
from jtl.pretrained.load import Pretrained
from jtl.typing import Mask


class Network(NamedTuple):
    """A recipe's network, for the commands describe, predict, eval and export.

    Args:
      variables: the variables with fresh weights.
      net: the network from images or texts to logits.
      trainable: the parameters that the run's last stage trains.
      learning_rate: the rate of that stage, or a table of rates.
      classes: the names of the classes; empty if the classes are new in every task.
      read: a function from a file, or from a text if `texts`, to one input of the network.
      texts: whether `read` takes texts.
      loaded: what `jtl.load` gave for it, which `jtl export` saves with the weights of a checkpoint; None for a network
        that is built of parts.
    """

    variables: Variables
    net: Model
    trainable: Mask
    learning_rate: float | Table
    classes: tuple[str, ...]
    read: Callable[[Any], Any]
    texts: bool = False
    loaded: Pretrained | None = None


class Recipe(Protocol):
    """What `jtl` needs from a recipe: a frozen dataclass with these methods. All its fields have defaults."""

    @property
    def out(self) -> Path:
        """The folder of the run's files; checkpoints are in its folder `checkpoints`."""
        ...

    def train(self) -> dict[str, Any]:
        """Runs the recipe and returns its results as numbers by name; `failed` lists the claims that did not hold."""
        ...

    def network(self) -> Network:
        """The network of its checkpoints."""
        ...

    def evaluate(self, variables: Variables) -> dict[str, float]:
        """Metrics of a checkpoint on the recipe's test set."""
        ...


def data_root(given: Path | None) -> Path:
    """The folder of real data: as given, else the environment's `JTL_DATA`.

    Raises:
      FileNotFoundError: if neither names a folder.
    """
    named = given if given is not None else os.environ.get("JTL_DATA")
    if named is None:
        raise FileNotFoundError("this recipe needs real data: set JTL_DATA to its folder, or pass --data FOLDER")
    root = local(named, "data")
    if not root.is_dir():
        raise FileNotFoundError(f"the data folder {str(named)!r} does not exist; set JTL_DATA or pass --data FOLDER")
    return root


def find(given: Path | None, name: str) -> Path:
    """One file of the data folder.

    Raises:
      FileNotFoundError: naming the missing file and what is there instead.
    """
    root = data_root(given)
    if not (root / name).exists():
        there = sorted(path.name for path in root.iterdir())
        raise FileNotFoundError(f"no {name!r} in {str(root)!r}; there are {there}. Set JTL_DATA or pass --data FOLDER")
    return root / name


def stored(given: Path | None, name: str, *keys: str) -> dict[str, np.ndarray]:
    """Reads arrays from an .npz file of the data folder; without keys, all of them."""
    with np.load(find(given, name)) as file:
        return {key: file[key] for key in keys or file.files}


def positive(**numbers: float) -> None:
    """Refuses a number of a recipe that is infinite or not above zero.

    Raises:
      ValueError: naming the number and its value.
    """
    for name, value in numbers.items():
        if not 0 < value < float("inf"):
            raise ValueError(f"{name}={value}: must be above zero" + " and finite" * (value > 0))


def seeded(seed: int) -> None:
    """Refuses a seed below zero, which NumPy does not take.

    Raises:
      ValueError: naming the seed.
    """
    if seed < 0:
        raise ValueError(f"seed={seed}: must be 0 or more")


def command(name: str, recipe: Any) -> str:
    """The command that repeats this run: the recipe's name, and the options that differ from its defaults.

    Args:
      name: the name of a recipe of jtl, or the path of a recipe's file.
      recipe: a frozen dataclass whose fields all have defaults.

    Raises:
      ValueError: for a changed field that no option can set, such as a network.
    """
    return shlex.join(["jtl", "train", name, *_changed(recipe, type(recipe)(), "")])


def _changed(value: Any, usual: Any, prefix: str) -> list[str]:
    found: list[str] = []
    for field in dataclasses.fields(value):
        new, old = getattr(value, field.name), getattr(usual, field.name)
        name = prefix + field.name.replace("_", "-")
        if dataclasses.is_dataclass(new):
            found += _changed(new, old, f"{name}.")
        elif new != old:
            found += _option(name, new)
    return found


def _option(name: str, value: Any) -> list[str]:
    if isinstance(value, bool):
        group, _, last = name.rpartition(".")
        return [f"--{name}" if value else f"--{group}.no-{last}" if group else f"--no-{last}"]
    parts = value if isinstance(value, tuple) else (value,)
    if not all(isinstance(part, int | float | str | Path) for part in parts):
        raise ValueError(f"--{name} was changed in Python, which no option can say: write a recipe file of your own")
    return [f"--{name}", *map(str, parts)]
