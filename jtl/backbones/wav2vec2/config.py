"""Encoders of raw audio: wav2vec 2.0, HuBERT."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp

from jtl.backbones.config import Range, Rate, TransformerConfig, Whole
from jtl.backbones.family import HEADLESS, Family, by_preset, with_head
from jtl.backbones.wav2vec2 import names as maps
from jtl.backbones.wav2vec2.network import wav2vec2
from jtl.model import Model
from jtl.nn.audio_frontend import Convolution, samples_of_frame
from jtl.nn.span_masking import Spans
from jtl.preprocess.audio_spec import Waves
from jtl.weights.mapping.rules import Rule

_SECOND = 16000
_LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
_XLARGE = {"hidden_size": 1280, "num_hidden_layers": 48, "num_attention_heads": 16, "intermediate_size": 5120}
_STABLE = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
_Count = Annotated[int, Range(0, 1 << 16)]
_Positions = Annotated[int, Range(1, 1 << 12)]
_Kernels = Annotated[tuple[Annotated[int, Range(1, 1 << 10)], ...], Range(1, 64)]


class Wav2Vec2Config(TransformerConfig, model_type="wav2vec2"):
    """The config of a wav2vec 2.0."""

    hidden_act: Literal["gelu"] = "gelu"
    hidden_dropout: Rate = 0.1
    activation_dropout: Rate = 0.1
    attention_dropout: Rate = 0.1
    feat_proj_dropout: Rate = 0.0
    layer_norm_eps: Rate = 1e-5
    feat_extract_norm: Literal["group", "layer"] = "group"
    feat_extract_activation: Literal["gelu"] = "gelu"
    conv_dim: Annotated[tuple[Whole, ...], Range(1, 64)] = (512,) * 7
    conv_kernel: _Kernels = (10, 3, 3, 3, 3, 2, 2)
    conv_stride: _Kernels = (5, 2, 2, 2, 2, 2, 2)
    conv_bias: bool = False
    num_conv_pos_embeddings: _Positions = 128
    num_conv_pos_embedding_groups: _Positions = 16
    do_stable_layer_norm: bool = False
    layerdrop: Rate = 0.1
    apply_spec_augment: bool = True
    mask_time_prob: Rate = 0.05
    mask_time_length: Whole = 10
    mask_time_min_masks: _Count = 2
    mask_feature_prob: Rate = 0.0
    mask_feature_length: Whole = 10
    mask_feature_min_masks: _Count = 0
    use_weighted_layer_sum: Literal[False] = False
    classifier_proj_size: Whole = 256
    add_adapter: Literal[False] = False
    adapter_attn_dim: Literal[None] = None
    feat_proj_layer_norm: bool = True
    conv_pos_batch_norm: Literal[False] = False
    with_projector: bool = True

    @classmethod
    def _fill(cls, given: Mapping[str, Any], naming: str) -> Mapping[str, Any]:
        return with_head(given, naming, "with_projector")

    def _check(self) -> None:
        self._as_many("conv_dim", "conv_kernel", "conv_stride")
        if samples_of_frame(self.convolutions) > 1 << 20:
            raise ValueError("conv_kernel, conv_stride: a frame sees more than a million samples")

    @property
    def convolutions(self) -> list[Convolution]:
        """The convolutions on the sound."""
        return [Convolution(*one) for one in zip(self.conv_dim, self.conv_kernel, self.conv_stride, strict=True)]

    @property
    def masked(self) -> bool:
        """Whether transformers has a vector for masked frames, used or not."""
        return self.mask_time_prob > 0 or self.mask_feature_prob > 0


class HubertConfig(Wav2Vec2Config, model_type="hubert"):
    """The config of a HuBERT."""


def _backbone(config: Wav2Vec2Config) -> Model:
    return wav2vec2(
        config.size,
        convolutions=config.convolutions,
        norm=config.feat_extract_norm,
        bias=config.conv_bias,
        pre_norm=config.do_stable_layer_norm,
        positions=config.num_conv_pos_embeddings,
        groups=config.num_conv_pos_embedding_groups,
        first_norm=config.feat_proj_layer_norm,
        masked=config.masked,
        hidden_frames=_spans(config, config.mask_time_prob, config.mask_time_length, config.mask_time_min_masks),
        hidden_channels=_spans(
            config, config.mask_feature_prob, config.mask_feature_length, config.mask_feature_min_masks
        ),
        projection=config.classifier_proj_size if config.with_projector else None,
        eps=config.layer_norm_eps,
        dropout=config.hidden_dropout,
        first_dropout=config.feat_proj_dropout,
        mlp_dropout=config.activation_dropout,
        attention_dropout=config.attention_dropout,
        layer_drop=config.layerdrop,
    )


def _spans(config: Wav2Vec2Config, share: float, length: int, fewest: int) -> Spans | None:
    """SpecAugment's masking in training, or None."""
    return Spans(share, length, fewest) if config.apply_spec_augment and share else None


def _example(config: Wav2Vec2Config) -> dict[str, jax.ShapeDtypeStruct]:
    """The example input: one second of sound."""
    shape = (1, max(_SECOND, samples_of_frame(config.convolutions)))
    return {"wave": jax.ShapeDtypeStruct(shape, jnp.float32), "mask": jax.ShapeDtypeStruct(shape, jnp.bool_)}


def _tables(config: Wav2Vec2Config) -> dict[str, Sequence[Rule]]:
    # A network without a head is written without the prefix.
    top = rf"(?:{config.model_type}\.|)" if config.with_projector else rf"(?:|{config.model_type}\.)"
    options = top, config.masked
    return {HEADLESS: maps.transformers(*options, True), "transformers": maps.transformers(*options, False)}


def _family(config: type[Wav2Vec2Config], name: str, presets: Mapping[str, Mapping[str, Any]]) -> Family[Any]:
    """One of the two families; `name` is what the names of transformers' classes begin with."""
    return Family(
        config=config,
        names=", ".join(presets),
        named=by_preset(config.model_type, presets),
        backbone=_backbone,
        example=_example,
        tables=_tables,
        usual=lambda name, config: Waves(masked=config.feat_extract_norm == "layer"),
        architecture=f"{name}ForSequenceClassification",
        bare=lambda config: f"{name}Model",
        depth=("num_hidden_layers",),
    )


FAMILIES = (
    _family(
        Wav2Vec2Config,
        "Wav2Vec2",
        {
            "wav2vec2-base": {},
            "wav2vec2-large": _LARGE,
            "wav2vec2-large-lv60": {**_LARGE, **_STABLE},
            "wav2vec2-large-xlsr-53": {**_LARGE, **_STABLE},
            "wav2vec2-large-960h-lv60": {**_LARGE, **_STABLE},
        },
    ),
    _family(
        HubertConfig,
        "Hubert",
        {
            "hubert-base-ls960": {},
            "hubert-large-ll60k": {**_LARGE, **_STABLE},
            "hubert-xlarge-ll60k": {**_XLARGE, **_STABLE},
        },
    ),
)
