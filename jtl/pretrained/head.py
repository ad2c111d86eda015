"""The head of a loaded network, and what it reads."""

from dataclasses import asdict
from typing import Any

from jtl.backbones.family import Config, Family
from jtl.heads import Reads, reading
from jtl.model import Model
from jtl.reads import Read, reads

WORD = "jtl_reads"
"""The entry of a config that says what the head reads, where that is not the pooled features."""


def head_of(family: Family, config: Config, classes: int) -> Model:
    """The family's head, on the features that the config says.

    Raises:
      ValueError: for an entry that is no `Read`.
    """
    head = family.head(config, classes)
    return reading(head, read_of(config)) if WORD in config.extra else head


def read_of(config: Config) -> Read:
    """The features that the head of a config reads.

    Raises:
      ValueError: for an entry that is no `Read`, with its value.
    """
    given: Any = config.extra.get(WORD, {})
    try:
        return Read(**{**given, **({"names": tuple(given["names"])} if "names" in given else {})})
    except TypeError as error:
        raise ValueError(f"{WORD}={str(given)[:120]}: give the names, form and masked of a jtl.reads.Read") from error


def with_reads(config: Config, given: Reads) -> Config:
    """The config of a network whose head reads other features."""
    read = given if isinstance(given, Read) else reads(given)
    rest = {name: value for name, value in config.extra.items() if name != WORD}
    said = {} if read == Read() else {WORD: {**asdict(read), "names": list(read.names)}}
    return config.replace(extra={**rest, **said})
