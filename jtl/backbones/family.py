"""What jtl must know of a family of networks to read its files."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jtl import heads
from jtl.model import Model
from jtl.preprocess.audio_spec import LogMel, Waves
from jtl.preprocess.image import Preprocessing
from jtl.weights.formats.errors import show
from jtl.weights.mapping.rules import Rule

Config = dict[str, Any]
"""The measures of a network in transformers' words: its `config.json` with `model_type`."""
HEADLESS = "transformers, headless"
"""The naming of a file of transformers that lacks the layers which only a network with a head needs."""
PLAIN = "transformers, no head"
"""The naming in which a network without a head is saved, where that is not "transformers"."""


class Family(NamedTuple):
    """One family. A network of it is described by a `Config`, whichever library the file is from.

    Args:
      names: those of timm and torchvision that `named` knows, for messages.
      named: `named(name, changes) -> Config`, or None for a name of another family; `changes` are timm's
        `model_args`.
      complete: `complete(config, naming) -> Config` with every measure, where the file leaves them to its
        library's defaults; raises ValueError for what is no measure.
      backbone: of a complete config; raises ValueError for what jtl's network cannot be.
      example: shapes and types of one example's input, with a leading axis of 1; a tree where there are several.
      tables: naming -> name table; of several that fit alike the first is taken, "transformers" is what `save` writes.
      usual: the preprocessing of networks known by name; None where their input is text.
      architecture: transformers' class with a head; None where it has none.
      bare: transformers' class without a head; None where it has none that is this network.
      classifier: transformers' class with a head where the config says that it is another than `architecture`.
      headless: `headless(config, naming) -> Config` of a file without a classifier, before it is completed.
      head: `head(config, classes)`, the classifier; each of its layers takes its own part of the pooled features.
      torchvision: those of `names` that timm does not know.
      depth: the entries of a config that say how many stages there are, a number or a list of one value for each,
        the first of them in every config; none where a network is read as a whole only.
    """

    names: str
    named: Callable[[str, Mapping[str, Any]], Config | None]
    complete: Callable[[Config, str], Config]
    backbone: Callable[[Config], Model]
    example: Callable[[Config], Any]
    tables: Callable[[Config], dict[str, Sequence[Rule]]]
    usual: Callable[[str, Config], Preprocessing | Waves | LogMel | None]
    architecture: str | None
    bare: Callable[[Config], str | None] = lambda config: None
    classifier: Callable[[Config], str | None] = lambda config: None
    headless: Callable[[Config, str], Config] = lambda config, naming: config
    head: Callable[[Config, int], Model] = lambda config, classes: heads.linear(classes)
    torchvision: tuple[str, ...] = ()
    depth: tuple[str, ...] = ()


def picture(side: int, channels: int) -> jax.ShapeDtypeStruct:
    """The example of a network of images."""
    return jax.ShapeDtypeStruct((1, side, side, channels), jnp.float32)


def changed(config: Config, changes: Mapping[str, Any], words: Mapping[str, str]) -> Config:
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


def own_words(config: Config, words: Mapping[str, str]) -> Config:
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


def stages(config: Config) -> list[tuple[int, int]]:
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


def must_be(config: Config, **wanted: Any) -> None:
    """Refuses a network that jtl's is not.

    Raises:
      ValueError: naming the entry of the config, its value and the one that is read.
    """
    for name, value in wanted.items():
        if config[name] != value:
            given = config[name] if isinstance(config[name], (list, tuple)) else show(config[name])
            raise ValueError(f"{config['model_type']} with {name}={str(given)[:120]} is not read, only with {value!r}")
