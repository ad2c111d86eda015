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
"""The naming of a file of transformers that lacks the layers which only a network with a head needs."""
PLAIN = "transformers, no head"
"""The naming in which a network without a head is saved, where that is not "transformers"."""


C = TypeVar("C", bound=Config)


@dataclass(frozen=True)
class Family(Generic[C]):
    """One family: pure functions of its config, whichever library a file is from.

    Args:
      config: the class of its configs.
      backbone: of a config.
      example: shapes and types of one example's input, with a leading axis of 1; a tree where there are several.
      tables: naming -> name table; of several that fit alike the first is taken, "transformers" is what `save` writes.
      names: those of timm and torchvision that `named` knows, for messages.
      named: `named(name, changes)`, the entries of a config, or None for a name of another family; `changes` are
        timm's `model_args`.
      usual: the preprocessing of networks known by name; None where their input is text.
      architecture: transformers' class with a head; None where it has none.
      bare: transformers' class without a head; None where it has none that is this network.
      classifier: transformers' class with a head where the config says that it is another than `architecture`.
      headless: `headless(entries, naming)`, the entries of a file without a classifier.
      head: `head(config, classes)`, the classifier; each of its layers takes its own part of the pooled features.
      torchvision: those of `names` that timm does not know.
      depth: the entries of a config that say how many stages there are, a number or a list of one value for each,
        the first of them in every config; none where a network is read as a whole only.
      blocks: how many blocks the network of a config has; None where that is the sum of the first entry of `depth`.
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
        """The config of a `config.json`, as `Config.from_dict` reads it."""
        return self.config.from_dict(entries, naming)

    def count_blocks(self, config: C) -> int:
        """The number of blocks of a config's network, those of two towers together; 0 of a network without blocks.

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
    """The `named` of a family whose networks are listed by name.

    Args:
      kind: the `model_type`.
      presets: name -> entries that differ from the defaults.
      words: timm's word -> transformers', of what may be changed.
    """

    def named(name: str, changes: Mapping[str, Any]) -> dict[str, Any] | None:
        return changed({"model_type": kind, **presets[name]}, changes, words) if name in presets else None

    return named


def with_head(given: Mapping[str, Any], naming: str, entry: str) -> Mapping[str, Any]:
    """`given`, where `entry` says whether the layer before a classifier is there, as the file's names tell.

    Files leave the entry as it is: one config is written for networks with a classifier and without.
    """
    known = {HEADLESS: False, "transformers": True}
    return {**given, entry: known[naming]} if naming in known else given


def sentence(tokens: int) -> dict[str, jax.ShapeDtypeStruct]:
    """The example of a network of text."""
    return {name: jax.ShapeDtypeStruct((1, tokens), dtype) for name, dtype in (("ids", jnp.int32), ("mask", jnp.bool_))}


def picture(side: int, channels: int) -> jax.ShapeDtypeStruct:
    """The example of a network of images."""
    return jax.ShapeDtypeStruct((1, side, side, channels), jnp.float32)


def changed(config: Mapping[str, Any], changes: Mapping[str, Any], words: Mapping[str, str]) -> dict[str, Any]:
    """`config` with timm's `model_args`.

    Args:
      config: entries of the named network.
      changes: by timm's words.
      words: timm's word -> transformers'.

    Raises:
      ValueError: for a word that is not known.
    """
    unknown = sorted(set(changes) - set(words))
    if unknown:
        raise ValueError(f"model_args {unknown} change the network in a way jtl does not know; known are {list(words)}")
    return {**config, **{words[word]: value for word, value in changes.items()}}
