"""A family of networks: how its files are read and its networks built."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Generic, TypeVar

import jax
import jax.numpy as jnp

from jtl import heads
from jtl.backbones.config import Config
from jtl.model import Model
from jtl.preprocess.audio_spec import LogMel, Waves
from jtl.preprocess.image import Preprocessing
from jtl.weights.mapping.rules import Rule

HEADLESS = "transformers, headless"
"""The naming of a file from transformers without the layers that only a network with a head needs."""
PLAIN = "transformers, no head"
"""The naming in which a network without a head is saved, if that is not "transformers"."""


C = TypeVar("C", bound=Config)


@dataclass(frozen=True)
class Family(Generic[C]):
    """One family: pure functions of its config, the same for every library that a file may come from.

    Args:
      config: the class of its configs.
      backbone: builds the network of a config.
      example: shapes and types of one example's input, with a leading axis of 1; a tree if there are several inputs.
      tables: naming -> name table; if several fit equally well, the first is taken. `save` writes "transformers".
      names: names in timm and torchvision that `named` knows, for messages.
      named: `named(name, changes)` returns the entries of a config, or None for a name of another family; `changes` are
        timm's `model_args`.
      usual: the preprocessing of networks known by name; None if their input is text.
      architecture: transformers' class with a head; None if it has none.
      bare: transformers' class without a head; None if it has none for this network.
      classifier: transformers' class with a head, for a config whose class is not `architecture`; else None.
      headless: `headless(entries, naming)` returns the entries of a file without a classifier.
      head: `head(config, classes)` builds the classifier; each of its layers takes its own part of the pooled features.
      torchvision: those of `names` that timm does not have.
      depth: the entries of a config that say how many stages there are, each a number or a list with one value per
        stage; the first is in every config. Empty if a network can only be read as a whole.
      blocks: counts the blocks of a config's network; None if that is the sum of the first entry of `depth`.
    """

    config: type[C]
    backbone: Callable[[C], Model]
    example: Callable[[C], Any]
    tables: Callable[[C], dict[str, Sequence[Rule]]]
    names: str = ""
    named: Callable[[str, Mapping[str, Any]], dict[str, Any] | None] = lambda name, changes: None
    usual: Callable[[str, C], Preprocessing | Waves | LogMel | None] = lambda name, config: None
    architecture: str | None = None
    bare: Callable[[C], str | None] = lambda config: None
    classifier: Callable[[C], str | None] = lambda config: None
    headless: Callable[[Mapping[str, Any], str], Mapping[str, Any]] = lambda entries, naming: entries
    head: Callable[[C, int], Model] = lambda config, classes: heads.linear(classes)
    torchvision: tuple[str, ...] = ()
    depth: tuple[str, ...] = ()
    blocks: Callable[[C], int] | None = None

    def complete(self, entries: Mapping[str, Any], naming: str = "") -> C:
        """The config made of a `config.json`, as by `Config.from_dict`."""
        return self.config.from_dict(entries, naming)

    def count_blocks(self, config: C) -> int:
        """The number of blocks in a config's network, summed over two towers; 0 for a network without blocks.

        Example:
          >>> from jtl.backbones.registry import FAMILIES
          >>> FAMILIES["resnet"].count_blocks(FAMILIES["resnet"].complete({"depths": [3, 4, 6, 3]}))
          16
        """
        if self.blocks is not None:
            return self.blocks(config)
        found = getattr(config, self.depth[0]) if self.depth else 0
        return found if isinstance(found, int) else sum(found)


def by_preset(
    kind: str, presets: Mapping[str, Mapping[str, Any]], words: Mapping[str, str] = MappingProxyType({})
) -> Callable[[str, Mapping[str, Any]], dict[str, Any] | None]:
    """The `named` function of a family whose networks are listed by name.

    Args:
      kind: the `model_type`.
      presets: name -> entries that differ from the defaults.
      words: timm's name -> transformers' name, for each entry that may be changed.
    """

    def named(name: str, changes: Mapping[str, Any]) -> dict[str, Any] | None:
        return changed({"model_type": kind, **presets[name]}, changes, words) if name in presets else None

    return named


def with_head(given: Mapping[str, Any], naming: str, entry: str) -> Mapping[str, Any]:
    """Sets `entry`, whether there is a layer before the classifier, according to the names in the file.

    The entry in a file is no guide: the same config is written for networks with and without a classifier.
    """
    known = {HEADLESS: False, "transformers": True}
    return {**given, entry: known[naming]} if naming in known else given


def sentence(tokens: int) -> dict[str, jax.ShapeDtypeStruct]:
    """The example input of a text network."""
    return {name: jax.ShapeDtypeStruct((1, tokens), dtype) for name, dtype in (("ids", jnp.int32), ("mask", jnp.bool_))}


def picture(side: int, channels: int) -> jax.ShapeDtypeStruct:
    """The example input of an image network."""
    return jax.ShapeDtypeStruct((1, side, side, channels), jnp.float32)


def changed(config: Mapping[str, Any], changes: Mapping[str, Any], words: Mapping[str, str]) -> dict[str, Any]:
    """Applies timm's `model_args` to `config`.

    Args:
      config: entries of the named network.
      changes: new values, by timm's names.
      words: timm's name -> transformers' name.

    Raises:
      ValueError: for an unknown name.
    """
    unknown = sorted(set(changes) - set(words))
    if unknown:
        raise ValueError(f"model_args {unknown} change the network in a way jtl does not know; known are {list(words)}")
    return {**config, **{words[word]: value for word, value in changes.items()}}
