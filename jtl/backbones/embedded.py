"""Networks of texts that give one embedding of a text's tokens: the entry of their configs, and what it changes."""

from collections.abc import Mapping, Sequence
from typing import Annotated

from jtl.backbones.config import Config, Range
from jtl.model import Model
from jtl.nn.sentence_pooling import sentences
from jtl.weights.mapping.rules import Rule


class EmbeddingConfig(Config):
    """How an embedding of a text is made of its tokens, as sentence-transformers does it."""

    pooling: Annotated[tuple[str, ...], Range(1, 8)]
    normalise: bool


def embedded(backbone: Model, how: EmbeddingConfig | None) -> Model:
    """`backbone` with that embedding as `pooled`; itself for None.

    Raises:
      ValueError: for a pooling that is not known.
    """
    return backbone if how is None else sentences(backbone, pooling=how.pooling, normalise=how.normalise)


def nameable(tables: Mapping[str, Sequence[Rule]], how: EmbeddingConfig | None) -> dict[str, Sequence[Rule]]:
    """The name tables without the classifier's rules where there is an embedding: transformers has none of it."""
    if how is None:
        return dict(tables)
    return {name: [rule for rule in rules if "head/" not in str(rule.path)] for name, rules in tables.items()}
