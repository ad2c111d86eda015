"""The head of a loaded network, and the features that it reads."""

from dataclasses import asdict
from typing import Any

from jtl.backbones.family import Config, Family
from jtl.heads import Reads, reading
from jtl.model import Model
from jtl.reads import Read, reads

WORD = "jtl_reads"
"""The entry of a config that names the features that the head reads, if these are not the pooled ones."""


def head_of(family: Family, config: Config, classes: int) -> Model:
    """Returns the family's head, on the features that the config names.

    Raises:
      ValueError: for an entry that is not a `Read`.
    """
    head = family.head(config, classes)
    return reading(head, read_of(config)) if WORD in config.extra else head


def read_of(config: Config) -> Read:
    """Returns the features that the head of a config reads.

    Raises:
      ValueError: for an entry that is not a `Read`, naming its value.
    """
    given: Any = config.extra.get(WORD, {})
    try:
        return Read(**{**given, **({"names": tuple(given["names"])} if "names" in given else {})})
    except TypeError as error:
        raise ValueError(f"{WORD}={str(given)[:120]}: give the names, form and masked of a jtl.reads.Read") from error


def with_reads(config: Config, given: Reads) -> Config:
    """Returns the config with the features that the head reads replaced."""
    read = given if isinstance(given, Read) else reads(given)
    rest = {name: value for name, value in config.extra.items() if name != WORD}
    said = {} if read == Read() else {WORD: {**asdict(read), "names": list(read.names)}}
    return config.replace(extra={**rest, **said})
