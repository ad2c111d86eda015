"""The encoder of Whisper."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jtl import backbones
from jtl.backbones.family import HEADLESS, Config, Family, changed, must_be, own_words, real, whole
from jtl.backbones.whisper import names as maps
from jtl.model import Model
from jtl.preprocess.audio_spec import LogMel
from jtl.weights.formats.errors import show
from jtl.weights.mapping.rules import Rule

_MEASURES = ("d_model", "encoder_layers", "encoder_attention_heads", "encoder_ffn_dim")
_WORDS = {
    "hidden_size": "d_model",
    "num_hidden_layers": "encoder_layers",
    "num_attention_heads": "encoder_attention_heads",
}
"""transformers' common words -> Whisper's own."""
_SIZES = {
    "tiny": (384, 4, 6, 1536),
    "base": (512, 6, 8, 2048),
    "small": (768, 12, 12, 3072),
    "medium": (1024, 24, 16, 4096),
    "large-v2": (1280, 32, 20, 5120),
    "large-v3": (1280, 32, 20, 5120),
}


def _named(name: str, changes: Mapping[str, Any]) -> Config | None:
    size = name.removeprefix("whisper-")
    if size == name or size not in _SIZES:
        return None
    mels = {"num_mel_bins": 128} if size == "large-v3" else {}
    return changed({"model_type": "whisper", **dict(zip(_MEASURES, _SIZES[size], strict=True)), **mels}, changes, {})


def _complete(config: Config, naming: str) -> Config:
    usual = {
        **dict(zip(_MEASURES, _SIZES["tiny"], strict=True)),
        "num_mel_bins": 80,
        "max_source_positions": 1500,
        "activation_function": "gelu",
        "dropout": 0.0,
        "activation_dropout": 0.0,
        "attention_dropout": 0.0,
        "encoder_layerdrop": 0.0,
        "use_weighted_layer_sum": False,
        "classifier_proj_size": 256,
    }
    config = {**usual, **own_words(config, _WORDS)}
    known = {HEADLESS: False, "transformers": True}  # whatever the config says: it is written for many classes
    config["with_projector"] = known.get(naming, config.get("with_projector", True))
    if type(config["with_projector"]) is not bool:
        raise ValueError(f"with_projector={show(config['with_projector'])}: give true or false")
    whole(config, "d_model", "encoder_attention_heads", "encoder_ffn_dim", "classifier_proj_size")
    whole(config, "num_mel_bins", "max_source_positions")
    whole(config, "encoder_layers", most=256)
    for name in ("dropout", "activation_dropout", "attention_dropout", "encoder_layerdrop"):
        real(config, name, 1.0)
    return config


def _backbone(config: Config) -> Model:
    must_be(config, activation_function="gelu", use_weighted_layer_sum=False)
    return backbones.whisper(
        backbones.Size(*(config[name] for name in _MEASURES)),
        mels=config["num_mel_bins"],
        positions=config["max_source_positions"],
        projection=config["classifier_proj_size"] if config["with_projector"] else None,
        dropout=config["dropout"],
        mlp_dropout=config["activation_dropout"],
        attention_dropout=config["attention_dropout"],
        layer_drop=config["encoder_layerdrop"],
    )


def _tables(config: Config) -> dict[str, Sequence[Rule]]:
    del config
    return {HEADLESS: maps.transformers(True), "transformers": maps.transformers(False)}


def _usual(name: str, config: Config) -> LogMel:
    return LogMel(mels=_complete(config, "")["num_mel_bins"])


WHISPER = Family(
    names="whisper-{tiny,base,small,medium,large-v2,large-v3}",
    named=_named,
    complete=_complete,
    backbone=_backbone,
    example=lambda config: jax.ShapeDtypeStruct(
        (1, 2 * config["max_source_positions"], config["num_mel_bins"]), jnp.float32
    ),
    tables=_tables,
    usual=_usual,
    # transformers has no class for the encoder alone: without a head it is saved as jtl's.
    architecture="WhisperForAudioClassification",
    depth=("encoder_layers",),
)
