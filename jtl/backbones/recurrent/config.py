"""Recurrent networks: an embedding and an LSTM or GRU, in a `config.json` of jtl's own words."""

from collections.abc import Mapping
from typing import Any

from jtl import backbones
from jtl.backbones.bert.config import sentence
from jtl.backbones.family import Config, Family, changed, real, whole
from jtl.backbones.recurrent import names as maps
from jtl.model import Model
from jtl.weights.formats.errors import show

_PRESETS = {
    "lstm": {"cell": "lstm"},
    "bilstm": {"cell": "lstm", "bidirectional": True},
    "gru": {"cell": "gru"},
    "bigru": {"cell": "gru", "bidirectional": True},
}
_WORDS = {
    name: name for name in ("vocab_size", "embedding_size", "hidden_size", "num_layers", "bidirectional", "dropout")
}


def _named(name: str, changes: Mapping[str, Any]) -> Config | None:
    return changed({"model_type": "recurrent", **_PRESETS[name]}, changes, _WORDS) if name in _PRESETS else None


def _complete(config: Config, naming: str) -> Config:
    del naming
    usual = {
        "cell": "lstm",
        "vocab_size": 30522,
        "embedding_size": 300,
        "hidden_size": 256,
        "num_layers": 1,
        "bidirectional": False,
        "dropout": 0.0,
    }
    config = {**usual, **config}
    whole(config, "embedding_size", "hidden_size")
    whole(config, "vocab_size", most=1 << 24)
    whole(config, "num_layers", most=64)
    real(config, "dropout", 1.0)
    if type(config["bidirectional"]) is not bool:
        raise ValueError(f"bidirectional={show(config['bidirectional'])}: give true or false")
    if not isinstance(config["cell"], str) or config["cell"] not in ("lstm", "gru"):
        raise ValueError(f"cell={show(config['cell'])}: give 'lstm' or 'gru'")
    return config


def _backbone(config: Config) -> Model:
    return backbones.recurrent(
        config["cell"],
        backbones.RecurrentSize(config["embedding_size"], config["hidden_size"], config["num_layers"]),
        vocabulary=config["vocab_size"],
        bidirectional=config["bidirectional"],
        dropout=config["dropout"],
    )


RECURRENT = Family(
    names=", ".join(_PRESETS),
    named=_named,
    complete=_complete,
    backbone=_backbone,
    example=lambda config: sentence(128),
    tables=lambda config: {"torch": maps.torch()},
    usual=lambda name, config: None,
    architecture=None,
)
