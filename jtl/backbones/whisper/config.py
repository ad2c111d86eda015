"""The encoder of Whisper."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jtl.backbones.config import Config, Depth, Rate, Whole
from jtl.backbones.family import HEADLESS, Family, by_preset, with_head
from jtl.backbones.whisper import names as maps
from jtl.backbones.whisper.network import whisper
from jtl.model import Model
from jtl.nn.sizes import Size
from jtl.preprocess.audio_spec import LogMel
from jtl.weights.mapping.rules import Rule

_MEASURES: tuple[str, ...] = ("d_model", "encoder_layers", "encoder_attention_heads", "encoder_ffn_dim")
_SIZES = {
    "tiny": (384, 4, 6, 1536),
    "base": (512, 6, 8, 2048),
    "small": (768, 12, 12, 3072),
    "medium": (1024, 24, 16, 4096),
    "large-v2": (1280, 32, 20, 5120),
    "large-v3": (1280, 32, 20, 5120),
}
_PRESETS: dict[str, dict[str, Any]] = {
    f"whisper-{name}": dict(zip(_MEASURES, size, strict=True)) for name, size in _SIZES.items()
}
_PRESETS["whisper-large-v3"]["num_mel_bins"] = 128


class WhisperConfig(
    Config,
    model_type="whisper",
    aliases={
        "hidden_size": "d_model",
        "num_hidden_layers": "encoder_layers",
        "num_attention_heads": "encoder_attention_heads",
    },
):
    """The config of a Whisper; only its encoder is read."""

    d_model: Whole = 384
    encoder_layers: Depth = 4
    encoder_attention_heads: Whole = 6
    encoder_ffn_dim: Whole = 1536
    num_mel_bins: Whole = 80
    max_source_positions: Whole = 1500
    activation_function: Literal["gelu"] = "gelu"
    dropout: Rate = 0.0
    activation_dropout: Rate = 0.0
    attention_dropout: Rate = 0.0
    encoder_layerdrop: Rate = 0.0
    use_weighted_layer_sum: Literal[False] = False
    classifier_proj_size: Whole = 256
    with_projector: bool = True

    @classmethod
    def _fill(cls, given: Mapping[str, Any], naming: str) -> Mapping[str, Any]:
        return with_head(given, naming, "with_projector")


def _backbone(config: WhisperConfig) -> Model:
    return whisper(
        Size(config.d_model, config.encoder_layers, config.encoder_attention_heads, config.encoder_ffn_dim),
        mels=config.num_mel_bins,
        positions=config.max_source_positions,
        projection=config.classifier_proj_size if config.with_projector else None,
        dropout=config.dropout,
        mlp_dropout=config.activation_dropout,
        attention_dropout=config.attention_dropout,
        layer_drop=config.encoder_layerdrop,
    )


def _tables(config: WhisperConfig) -> dict[str, Sequence[Rule]]:
    del config
    return {HEADLESS: maps.transformers(True), "transformers": maps.transformers(False)}


def _example(config: WhisperConfig) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((1, 2 * config.max_source_positions, config.num_mel_bins), jnp.float32)


FAMILIES = (
    Family(
        config=WhisperConfig,
        names="whisper-{tiny,base,small,medium,large-v2,large-v3}",
        named=by_preset("whisper", _PRESETS),
        backbone=_backbone,
        example=_example,
        tables=_tables,
        usual=lambda name, config: LogMel(mels=config.num_mel_bins),
        # transformers has no class for the encoder alone: without a head it is saved in jtl's own form.
        architecture="WhisperForAudioClassification",
        depth=("encoder_layers",),
    ),
)
