"""The catalogue of networks whose weights jtl reads: families, names and costs."""

import fnmatch
from collections.abc import Iterator
from typing import NamedTuple

import jax

from jtl.backbones.family import HEADLESS, PLAIN
from jtl.backbones.registry import FAMILIES, Config, Family
from jtl.preprocess.image import Preprocessing
from jtl.pretrained import cost
from jtl.pretrained.presets import presets


class Line(NamedTuple):
    """One network.

    Args:
      family: the family, as transformers' `model_type`.
      name: the name in timm or torchvision, for `arch=`; "" for a family that is read only with a `config.json`.
      parameters: the number of parameters of the backbone.
      flops: floating-point operations of the backbone for one example, two per multiplication with its addition.
      shape: the shape of that example.
      sources: the naming schemes in which its files are read.
    """

    family: str
    name: str
    parameters: int
    flops: int
    shape: str
    sources: tuple[str, ...]


def names() -> list[tuple[str, str]]:
    """Returns (family, name) of every network, without its cost."""
    return [(kind, name) for kind, family in FAMILIES.items() for name in presets(family) or [""]]


def lines(pattern: str = "*") -> Iterator[Line]:
    """Yields every network whose name or family matches, lazily, because counting one takes a second.

    Args:
      pattern: a pattern as for file names: "vit_*", "resnet".

    Raises:
      ValueError: if no network matches.
    """
    wanted = [(k, n) for k, n in names() if fnmatch.fnmatchcase(n, pattern) or fnmatch.fnmatchcase(k, pattern)]
    if not wanted:
        raise ValueError(f"no network is named {pattern!r}; there are {', '.join(n or k for k, n in names())}")
    for kind, name in wanted:
        yield _line(kind, name)


def _line(kind: str, name: str) -> Line:
    family = FAMILIES[kind]
    # For any naming scheme the sizes are the same; only numbers such as epsilons differ.
    config = family.complete(family.named(name, {}) or {})
    backbone, example = family.backbone(config), _example(family, name, config)
    shape = "x".join(map(str, max((a.shape[1:] for a in jax.tree.leaves(example)), key=len)))
    found = cost.parameters(backbone, example), cost.flops(backbone, example)
    sources = tuple(source for source in family.tables(config) if source not in (HEADLESS, PLAIN))
    return Line(kind, name, *found, shape, sources)


def _example(family: Family, name: str, config: Config) -> jax.ShapeDtypeStruct | dict:
    """Returns one example input; images have the size that the weights are used with."""
    example = family.example(config)
    if not isinstance(example, jax.ShapeDtypeStruct) or len(example.shape) != 4:
        return example
    usual = family.usual(name, config)
    if not isinstance(usual, Preprocessing):
        return example
    sides = usual.size if usual.crop is None else (usual.crop, usual.crop)
    return jax.ShapeDtypeStruct((1, *sides, example.shape[-1]), example.dtype) if isinstance(sides, tuple) else example


def table(found: Iterator[Line]) -> Iterator[str]:
    """Formats networks as lines of text, each as soon as it is known."""
    form = "{:14}  {:32}  {:>12}  {:>8}  {:>11}  {}"
    yield form.format("family", "name", "parameters", "GFLOPs", "of one", "read from")
    for line in found:
        cells = line.family, line.name or "(config.json)", f"{line.parameters:,}", f"{line.flops / 1e9:.2f}"
        yield form.format(*cells, line.shape, ", ".join(line.sources))
