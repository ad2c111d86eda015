"""A model card: the origin of the weights, their training and their metrics."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import SupportsFloat

import numpy as np

BAR = r"\|"


@dataclass(frozen=True)
class Card:
    """The parts of a model card that only its author knows.

    Args:
      title: of the page.
      data: what it was trained and tested on, with its source and licence; Markdown.
      recipe: how to make it again: the command, or the steps; Markdown.
      metrics: name -> number, on what `data` says; a NumPy or jax scalar is one.
      base: the repository whose weights it started from, as "google/vit-base-patch16-224".
      license: as the Hub has it: "apache-2.0".
      tags: besides the family's name.

    Raises:
      ValueError: title, data or recipe say nothing.
      TypeError: a metric is no single number, or tags are one string.

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
    """The text of `README.md`: a header of YAML that the Hub reads, and the page.

    Args:
      card: what the caller says.
      family: of the network, as "vit".
      library: that loads the files.
      labels: of the classes.
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
    """A name within a line of Markdown: a line break in it would end that."""
    return " ".join(text.split())
