"""Recurrent networks: an embedding and an LSTM or GRU, in a `config.json` with jtl's own entry names."""

from typing import Annotated, Literal

from jtl.backbones.config import Config, Range, Rate, Vocabulary, Whole
from jtl.backbones.family import Family, by_preset, sentence
from jtl.backbones.recurrent import names as maps
from jtl.backbones.recurrent.network import RecurrentSize, recurrent
from jtl.model import Model

_PRESETS = {
    "lstm": {"cell": "lstm"},
    "bilstm": {"cell": "lstm", "bidirectional": True},
    "gru": {"cell": "gru"},
    "bigru": {"cell": "gru", "bidirectional": True},
}
_WORDS = {
    name: name for name in ("vocab_size", "embedding_size", "hidden_size", "num_layers", "bidirectional", "dropout")
}


class RecurrentConfig(Config, model_type="recurrent"):
    """The config of a recurrent network."""

    cell: Literal["lstm", "gru"] = "lstm"
    vocab_size: Vocabulary = 30522
    embedding_size: Whole = 300
    hidden_size: Whole = 256
    num_layers: Annotated[int, Range(1, 64)] = 1
    bidirectional: bool = False
    dropout: Rate = 0.0


def _backbone(config: RecurrentConfig) -> Model:
    return recurrent(
        config.cell,
        RecurrentSize(config.embedding_size, config.hidden_size, config.num_layers),
        vocabulary=config.vocab_size,
        bidirectional=config.bidirectional,
        dropout=config.dropout,
    )


FAMILIES = (
    Family(
        config=RecurrentConfig,
        names=", ".join(_PRESETS),
        named=by_preset("recurrent", _PRESETS, _WORDS),
        backbone=_backbone,
        example=lambda config: sentence(128),
        tables=lambda config: {"torch": maps.torch()},
        blocks=lambda config: config.num_layers,
    ),
)
