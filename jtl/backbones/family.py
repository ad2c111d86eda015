"""What jtl must know of a family of networks to read its files."""

from collections.abc import Callable, Collection, Mapping, Sequence
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
from jtl.weights.formats.errors import show
from jtl.weights.mapping.rules import Rule

Raw = dict[str, Any]
"""Entries of a config that is not typed yet."""
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
      names: those of timm and torchvision that `named` knows, for messages.
      named: `named(name, changes)`, the entries of a config, or None for a name of another family; `changes` are
        timm's `model_args`.
      backbone: of a config.
      example: shapes and types of one example's input, with a leading axis of 1; a tree where there are several.
      tables: naming -> name table; of several that fit alike the first is taken, "transformers" is what `save` writes.
      usual: the preprocessing of networks known by name; None where their input is text.
      architecture: transformers' class with a head; None where it has none.
      bare: transformers' class without a head; None where it has none that is this network.
      classifier: transformers' class with a head where the config says that it is another than `architecture`.
      headless: `headless(entries, naming)`, the entries of a file without a classifier.
      head: `head(config, classes)`, the classifier; each of its layers takes its own part of the pooled features.
      torchvision: those of `names` that timm does not know.
      depth: the entries of a config that say how many stages there are, a number or a list of one value for each,
        the first of them in every config; none where a network is read as a whole only.
    """

    config: type[C]
    names: str
    named: Callable[[str, Mapping[str, Any]], dict[str, Any] | None]
    backbone: Callable[[C], Model]
    example: Callable[[C], Any]
    tables: Callable[[C], dict[str, Sequence[Rule]]]
    usual: Callable[[str, C], Preprocessing | Waves | LogMel | None]
    architecture: str | None
    bare: Callable[[C], str | None] = lambda config: None
    classifier: Callable[[C], str | None] = lambda config: None
    headless: Callable[[Mapping[str, Any], str], Mapping[str, Any]] = lambda entries, naming: entries
    head: Callable[[C, int], Model] = lambda config, classes: heads.linear(classes)
    torchvision: tuple[str, ...] = ()
    depth: tuple[str, ...] = ()

    def complete(self, entries: Mapping[str, Any], naming: str = "") -> C:
        """The config of a `config.json`, as `Config.from_dict` reads it."""
        return self.config.from_dict(entries, naming)


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


class Loose(dict):
    """A config that is not typed yet: its entries are attributes."""

    model_type = ""

    def __hash__(self):
        return hash(repr(self))

    def __getattr__(self, name):
        if name in self:
            return self[name]
        raise AttributeError(name)

    def replace(self, **changes):
        """A copy with other values."""
        return type(self)({**self, **changes})

    def to_dict(self):
        """Its entries."""
        return dict(self)

    @property
    def extra(self):
        """Its entries."""
        return self


def loose(kind: str, complete: Any) -> Any:
    """The class of configs of a family without a typed one, made by `complete(entries, naming)`."""
    made: Any = type("Loose", (Loose,), {"model_type": kind})
    made.from_dict = lambda entries, naming="": made(complete(dict(entries), naming))
    return made


def picture(side: int, channels: int) -> jax.ShapeDtypeStruct:
    """The example of a network of images."""
    return jax.ShapeDtypeStruct((1, side, side, channels), jnp.float32)


def changed(config: Raw, changes: Mapping[str, Any], words: Mapping[str, str]) -> Raw:
    """`config` with timm's `model_args`.

    Args:
      config: of the named network.
      changes: by timm's words.
      words: timm's word -> transformers'.

    Raises:
      ValueError: for a word that is not known.
    """
    unknown = sorted(set(changes) - set(words))
    if unknown:
        raise ValueError(f"model_args {unknown} change the network in a way jtl does not know; known are {list(words)}")
    return {**config, **{words[word]: value for word, value in changes.items()}}


def own_words(config: Raw, words: Mapping[str, str]) -> Raw:
    """`config` with a family's own words for the measures that transformers also takes by its common ones.

    Args:
      config: by either.
      words: transformers' common word -> the family's.

    Raises:
      ValueError: for one measure by both words with two values.
    """
    for word, own in words.items():
        if word in config:
            if own in config and config[own] != config[word]:
                given = f"{own}={str(config[own])[:120]} and {word}={str(config[word])[:120]}"
                raise ValueError(f"{given} are the same measure of a {config['model_type']}: give it once")
            config = {name: value for name, value in config.items() if name != word} | {own: config[word]}
    return config


def whole(config: Mapping[str, Any], *names: str, least: int = 1, most: int = 1 << 16) -> None:
    """Refuses measures that are no whole numbers from `least` to `most`: a file may say anything.

    Raises:
      ValueError: naming the entry and its value.
    """
    for name in names:
        value = config.get(name)
        if type(value) is not int or not least <= value <= most:
            raise ValueError(f"{name}={show(value)}: give a whole number from {least} to {most}")


def wholes(config: Mapping[str, Any], *names: str, least: int = 1, most: int = 1 << 16, longest: int = 64) -> None:
    """Refuses measures that are no lists of 1 to `longest` whole numbers from `least` to `most`.

    Raises:
      ValueError: naming the entry and its value.
    """
    for name in names:
        values: Any = config.get(name)
        fits = isinstance(values, (list, tuple)) and 1 <= len(values) <= longest
        if not fits or not all(type(value) is int and least <= value <= most for value in values):
            raise ValueError(
                f"{name}={show(str(values))}: give a list of 1 to {longest} whole numbers from {least} to {most}"
            )


def stages(config: Raw) -> list[tuple[int, int]]:
    """(blocks, channels) of each stage, by `depths` and `hidden_sizes`.

    Raises:
      ValueError: where these are not as many.
    """
    depths, widths = config["depths"], config["hidden_sizes"]
    if len(depths) != len(widths):
        raise ValueError(f"hidden_sizes of {len(widths)} stages and depths of {len(depths)}: give as many")
    return list(zip(depths, widths, strict=True))


def real(config: Mapping[str, Any], name: str, most: float) -> None:
    """Refuses a measure that is no number from 0 to `most`.

    Raises:
      ValueError: naming the entry and its value.
    """
    value: Any = config.get(name)
    if type(value) not in (int, float) or not 0 <= value <= most:
        raise ValueError(f"{name}={show(value)}: give a number from 0 to {most}")


def choice(config: Mapping[str, Any], name: str, choices: Collection[Any]) -> None:
    """Refuses what is none of the choices.

    Raises:
      ValueError: naming the entry and its value.
    """
    value = config.get(name)
    if not any(type(value) is type(one) and value == one for one in choices):
        raise ValueError(f"{name}={show(str(value))}: give one of {list(choices)}")


def must_be(config: Raw, **wanted: Any) -> None:
    """Refuses a network that jtl's is not.

    Raises:
      ValueError: naming the entry of the config, its value and the one that is read.
    """
    for name, value in wanted.items():
        if config[name] != value:
            given = config[name] if isinstance(config[name], (list, tuple)) else show(config[name])
            raise ValueError(f"{config['model_type']} with {name}={str(given)[:120]} is not read, only with {value!r}")
