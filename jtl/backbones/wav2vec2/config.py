"""Encoders of raw sound: wav2vec 2.0, HuBERT."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jtl import backbones
from jtl.backbones.family import HEADLESS, Config, Family, changed, must_be, real, whole, wholes
from jtl.backbones.wav2vec2 import names as maps
from jtl.model import Model
from jtl.nn.audio_frontend import Convolution, samples_of_frame
from jtl.preprocess.audio_spec import Waves
from jtl.weights.formats.errors import show
from jtl.weights.mapping.rules import Rule

_SECOND = 16000
_LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
_XLARGE = {"hidden_size": 1280, "num_hidden_layers": 48, "num_attention_heads": 16, "intermediate_size": 5120}
_STABLE = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
_USUAL = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "hidden_dropout": 0.1,
    "activation_dropout": 0.1,
    "attention_dropout": 0.1,
    "feat_proj_dropout": 0.0,
    "layer_norm_eps": 1e-5,
    "feat_extract_norm": "group",
    "feat_extract_activation": "gelu",
    "conv_dim": [512] * 7,
    "conv_kernel": [10, 3, 3, 3, 3, 2, 2],
    "conv_stride": [5, 2, 2, 2, 2, 2, 2],
    "conv_bias": False,
    "num_conv_pos_embeddings": 128,
    "num_conv_pos_embedding_groups": 16,
    "do_stable_layer_norm": False,
    "layerdrop": 0.1,
    "apply_spec_augment": True,
    "mask_time_prob": 0.05,
    "mask_time_length": 10,
    "mask_time_min_masks": 2,
    "mask_feature_prob": 0.0,
    "mask_feature_length": 10,
    "mask_feature_min_masks": 0,
    "use_weighted_layer_sum": False,
    "classifier_proj_size": 256,
    "add_adapter": False,
    "adapter_attn_dim": None,
    "feat_proj_layer_norm": True,
    "conv_pos_batch_norm": False,
}
_DROPPED = ("hidden_dropout", "activation_dropout", "attention_dropout", "feat_proj_dropout", "layerdrop")


def _family(
    kind: Literal["wav2vec2", "hubert"], classifier: str, bare: str, presets: Mapping[str, Mapping[str, Any]]
) -> Family:
    """One of the two.

    Args:
      kind: the `model_type`, and the prefix of the names.
      classifier: transformers' class.
      bare: transformers' class without a head.
      presets: name -> measures.
    """

    def named(name: str, changes: Mapping[str, Any]) -> Config | None:
        return changed({"model_type": kind, **presets[name]}, changes, {}) if name in presets else None

    def tables(config: Config) -> dict[str, Sequence[Rule]]:
        # A bare network is written without the prefix.
        top = rf"(?:{kind}\.|)" if config["with_projector"] else rf"(?:|{kind}\.)"
        masked = _masked(config)
        return {HEADLESS: maps.transformers(top, masked, True), "transformers": maps.transformers(top, masked, False)}

    return Family(
        names=", ".join(presets),
        named=named,
        complete=_complete,
        backbone=_backbone,
        example=_example,
        tables=tables,
        usual=lambda name, config: Waves(masked=_complete(config, "")["feat_extract_norm"] == "layer"),
        architecture=classifier,
        bare=lambda config: bare,
        depth=("num_hidden_layers",),
    )


def _complete(config: Config, naming: str) -> Config:
    config = {**_USUAL, **config}
    known = {HEADLESS: False, "transformers": True}  # whatever the config says: it is written for many classes
    config["with_projector"] = known.get(naming, config.get("with_projector", True))
    whole(config, "hidden_size", "num_attention_heads", "intermediate_size", "classifier_proj_size")
    whole(config, "num_conv_pos_embeddings", "num_conv_pos_embedding_groups", most=1 << 12)
    whole(config, "num_hidden_layers", most=256)
    wholes(config, "conv_dim")
    wholes(config, "conv_kernel", "conv_stride", most=1 << 10)
    whole(config, "mask_time_length", "mask_feature_length")
    whole(config, "mask_time_min_masks", "mask_feature_min_masks", least=0)
    for name in (*_DROPPED, "layer_norm_eps", "mask_time_prob", "mask_feature_prob"):
        real(config, name, 1.0)
    for name in ("conv_bias", "do_stable_layer_norm", "feat_proj_layer_norm", "with_projector", "apply_spec_augment"):
        if type(config[name]) is not bool:
            raise ValueError(f"{name}={show(config[name])}: give true or false")
    if len({len(config[name]) for name in ("conv_dim", "conv_kernel", "conv_stride")}) != 1:
        raise ValueError("conv_dim, conv_kernel, conv_stride are lists of other lengths: give as many of each")
    if samples_of_frame(_convolutions(config)) > 1 << 20:
        raise ValueError("conv_kernel, conv_stride: a frame sees more than a million samples")
    return config


def _convolutions(config: Config) -> list[Convolution]:
    measures = (config["conv_dim"], config["conv_kernel"], config["conv_stride"])
    return [Convolution(*found) for found in zip(*measures, strict=True)]


def _backbone(config: Config) -> Model:
    must_be(config, hidden_act="gelu", feat_extract_activation="gelu", use_weighted_layer_sum=False)
    must_be(config, add_adapter=False, adapter_attn_dim=None, conv_pos_batch_norm=False)
    if config["feat_extract_norm"] not in ("group", "layer"):
        raise ValueError(f"feat_extract_norm={show(str(config['feat_extract_norm']))}: give 'group' or 'layer'")
    measures = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    return backbones.wav2vec2(
        backbones.Size(*(config[name] for name in measures)),
        convolutions=_convolutions(config),
        norm=config["feat_extract_norm"],
        bias=config["conv_bias"],
        pre_norm=config["do_stable_layer_norm"],
        positions=config["num_conv_pos_embeddings"],
        groups=config["num_conv_pos_embedding_groups"],
        first_norm=config["feat_proj_layer_norm"],
        masked=_masked(config),
        hidden_frames=_spans(config, "mask_time"),
        hidden_channels=_spans(config, "mask_feature"),
        projection=config["classifier_proj_size"] if config["with_projector"] else None,
        eps=config["layer_norm_eps"],
        dropout=config["hidden_dropout"],
        first_dropout=config["feat_proj_dropout"],
        mlp_dropout=config["activation_dropout"],
        attention_dropout=config["attention_dropout"],
        layer_drop=config["layerdrop"],
    )


def _masked(config: Config) -> bool:
    """Whether transformers has a vector for hidden frames, used or not."""
    return config["mask_time_prob"] > 0 or config["mask_feature_prob"] > 0


def _spans(config: Config, of: str) -> backbones.Spans | None:
    """What is hidden in training, as SpecAugment does; None for nothing."""
    if not config["apply_spec_augment"] or not config[f"{of}_prob"]:
        return None
    return backbones.Spans(config[f"{of}_prob"], config[f"{of}_length"], config[f"{of}_min_masks"])


def _example(config: Config) -> dict[str, jax.ShapeDtypeStruct]:
    """A second of sound."""
    shape = (1, max(_SECOND, samples_of_frame(_convolutions(config))))
    return {"wave": jax.ShapeDtypeStruct(shape, jnp.float32), "mask": jax.ShapeDtypeStruct(shape, jnp.bool_)}


WAV2VEC2 = _family(
    "wav2vec2",
    "Wav2Vec2ForSequenceClassification",
    "Wav2Vec2Model",
    {
        "wav2vec2-base": {},
        "wav2vec2-large": _LARGE,
        "wav2vec2-large-lv60": {**_LARGE, **_STABLE},
        "wav2vec2-large-xlsr-53": {**_LARGE, **_STABLE},
        "wav2vec2-large-960h-lv60": {**_LARGE, **_STABLE},
    },
)
HUBERT = _family(
    "hubert",
    "HubertForSequenceClassification",
    "HubertModel",
    {
        "hubert-base-ls960": {},
        "hubert-large-ll60k": {**_LARGE, **_STABLE},
        "hubert-xlarge-ll60k": {**_XLARGE, **_STABLE},
    },
)
