"""Text networks that pool a text's tokens into one embedding: the entry of their configs, and its effect."""

from collections.abc import Mapping, Sequence
from typing import Annotated

from jtl.backbones.config import Config, Range
from jtl.model import Model
from jtl.nn.sentence_pooling import sentences
from jtl.weights.mapping.rules import Rule


class EmbeddingConfig(Config):
    """How a text's embedding is made from its tokens, as in sentence-transformers."""

    pooling: Annotated[tuple[str, ...], Range(1, 8)]
    normalise: bool


def embedded(backbone: Model, how: EmbeddingConfig | None) -> Model:
    """Returns `backbone` with that embedding as `pooled`, or unchanged if `how` is None.

    Raises:
      ValueError: for an unknown pooling.
    """
    return backbone if how is None else sentences(backbone, pooling=how.pooling, normalise=how.normalise)


def nameable(tables: Mapping[str, Sequence[Rule]], how: EmbeddingConfig | None) -> dict[str, Sequence[Rule]]:
    """The name tables, without the classifier's rules if there is an embedding: transformers has no such classifier."""
    if how is None:
        return dict(tables)
    return {name: [rule for rule in rules if "head/" not in str(rule.path)] for name, rules in tables.items()}
