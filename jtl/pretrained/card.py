"""Writes a model card: the origin of the weights, their training and their metrics."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import SupportsFloat

import numpy as np

BAR = r"\|"


@dataclass(frozen=True)
class Card:
    """The parts of a model card that only its author knows.

    Args:
      title: the title of the page.
      data: the data for training and testing, with their source and licence, in Markdown.
      recipe: how to reproduce the weights: the command, or the steps, in Markdown.
      metrics: name -> number, measured on `data`; NumPy and jax scalars are numbers too.
      base: the repository of the initial weights, such as "google/vit-base-patch16-224".
      license: the licence under the Hub's name, such as "apache-2.0".
      tags: tags in addition to the family's name.

    Raises:
      ValueError: if title, data or recipe is empty.
      TypeError: if a metric is not a single number, or tags is a string.

    Example:
      >>> import jtl
      >>> card = jtl.Card("Ants and bees", data="244 photos", recipe="jtl train ants.py", license="apache-2.0")
    """

    title: str
    data: str
    recipe: str
    metrics: Mapping[str, SupportsFloat] = field(default_factory=dict)
    base: str | None = None
    license: str | None = None
    tags: Sequence[str] = ()

    def __post_init__(self):
        for name in ("title", "data", "recipe"):
            if not getattr(self, name).strip():
                raise ValueError(f"Card({name}={getattr(self, name)!r}): say it; a card without it helps nobody")
        if isinstance(self.tags, str):
            raise TypeError(f"tags={self.tags!r} is a string; give a tuple of tags")
        for name, value in self.metrics.items():
            if not isinstance(value, SupportsFloat) or np.shape(np.asarray(value)):
                raise TypeError(f"metrics: {name!r} is {str(value)[:80]!r}; give a single number")


def readme(card: Card, family: str, library: str, labels: Sequence[str] | None) -> str:
    """Returns the text of `README.md`: a YAML header that the Hub reads, and the page.

    Args:
      card: the caller's parts of the page.
      family: the network's family, such as "vit".
      library: the library that loads the files.
      labels: the names of the classes; None if they have none.
    """
    from huggingface_hub import ModelCardData

    tags = list(dict.fromkeys(["jtl", family, *card.tags]))
    header = ModelCardData(library_name=library, tags=tags, license=card.license, base_model=card.base)
    lines = ["---", header.to_yaml().strip(), "---"]
    lines += [f"# {_line(card.title)}", "", "## Data", "", card.data.strip(), "", "## Recipe", "", card.recipe.strip()]
    if card.metrics:
        lines += ["", "## Metrics", "", "| metric | value |", "|---|---|"]
        lines += [f"| {_line(name).replace('|', BAR)} | {float(value):.4g} |" for name, value in card.metrics.items()]
    if labels is not None:
        shown = ", ".join(map(_line, labels[:50])) + (f", and {len(labels) - 50} more" if len(labels) > 50 else "")
        lines += ["", "## Classes", "", shown]
    return "\n".join(lines) + "\n"


def _line(text: str) -> str:
    """Returns a name without line breaks, which would end its line of Markdown."""
    return " ".join(text.split())
