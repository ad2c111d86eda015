"""Translates the config that OpenCLIP stores with its weights to transformers' config."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, ClassVar, Literal

from jtl.backbones.config import Config, Depth, Ratio, Vocabulary, Whole, read
from jtl.preprocess.image import OPENAI, Preprocessing, from_timm

_SAME = {"pos_embed_type": "learnable", "block_type": "default", "proj_type": "linear"}  # the same for every network
_IDLE = {"patch_dropout", "output_tokens", "pad_id", "eos_id"}
_IDLE |= {"hf_tokenizer_name", "tokenizer_mode", "tokenizer_kwargs"}


class _Part(Config):
    """A part of `model_cfg`; an entry that changes the network is refused."""

    same: ClassVar[Mapping[str, Any]] = {}
    """Entries that are not fields, each with the only accepted value apart from null and false."""

    @classmethod
    def _fill(cls, given: Mapping[str, Any], naming: str) -> Mapping[str, Any]:
        del naming
        known = {one.name for one in fields(cls)} | (_IDLE if cls.same else set())
        others = {k: v for k, v in given.items() if k not in known and v not in (None, False) and cls.same.get(k) != v}
        if others:
            raise ValueError(
                f"{cls.model_type} with {str(others)[:120]} is not read, only OpenCLIP's own ViT and causal text "
                "transformer"
            )
        if isinstance(given.get("layers"), (list, tuple)):
            layers = str(given["layers"])[:120]
            raise ValueError(
                f"{cls.model_type} with layers={layers} is CLIP's own ResNet, which is not read, only ViTs"
            )
        return given


class _Tower(_Part):
    width: Whole = 768
    layers: Depth = 12
    mlp_ratio: Ratio = 4.0

    def entries(self, heads: int, act: str) -> dict[str, Any]:
        """Returns the entries under transformers' names."""
        return {
            "hidden_size": self.width,
            "num_hidden_layers": self.layers,
            "num_attention_heads": heads,
            "intermediate_size": int(self.width * self.mlp_ratio),
            "hidden_act": act,
        }


class _Vision(_Tower, model_type="vision_cfg"):
    same: ClassVar[Mapping[str, Any]] = {**_SAME, "pool_type": "tok"}
    image_size: Whole = 224
    patch_size: Whole = 16
    head_width: Whole = 64


class _Text(_Tower, model_type="text_cfg"):
    same: ClassVar[Mapping[str, Any]] = {**_SAME, "pool_type": "argmax"}
    width: Whole = 512
    context_length: Whole = 77
    vocab_size: Vocabulary = 49408
    heads: Whole = 8


class _Model(_Part, model_type="model_cfg"):
    embed_dim: Whole
    vision_cfg: _Vision = _Vision()
    text_cfg: _Text = _Text()
    quick_gelu: bool = False


def config_of(said: Mapping[str, Any]) -> dict[str, Any]:
    """Returns CLIP's config in transformers' format.

    Args:
      said: an `open_clip_config.json`: {"model_cfg": {"embed_dim", "vision_cfg", "text_cfg", "quick_gelu"}, ...}.

    Raises:
      ValueError: for a network whose towers are not CLIP's two transformers, or an invalid size.
    """
    model: _Model = read(_Model, "model_cfg", said.get("model_cfg", {}))
    vision, text = model.vision_cfg, model.text_cfg
    act = "quick_gelu" if model.quick_gelu else "gelu"
    return {
        "model_type": "clip",
        "projection_dim": model.embed_dim,
        "vision_config": {
            **vision.entries(vision.width // vision.head_width, act),
            "image_size": vision.image_size,
            "patch_size": vision.patch_size,
        },
        "text_config": {
            **text.entries(text.heads, act),
            "vocab_size": text.vocab_size,
            "max_position_embeddings": text.context_length,
            "eos_token_id": 2,  # makes transformers do as OpenCLIP does: the largest id ends a text
        },
    }


class _Images(Config):
    mode: Literal["RGB"] = "RGB"
    resize_mode: Literal["shortest", "squash"] = "shortest"
    interpolation: Literal["bicubic", "bilinear", "random"] = "bicubic"

    @classmethod
    def _fill(cls, given: Mapping[str, Any], naming: str) -> Mapping[str, Any]:
        return {name: value for name, value in given.items() if value is not None}


def preprocessing_of(said: Mapping[str, Any], side: int) -> Preprocessing:
    """Returns the preprocessing of images: their short side is resized to `side`, or both sides are ("squash").

    Raises:
      ValueError: for a `preprocess_cfg` that jtl does not support.
    """
    images: _Images = read(_Images, "preprocess_cfg", said.get("preprocess_cfg", {}))
    # "random" is for augmentation in training; evaluation uses OpenCLIP's default.
    interpolation = "bicubic" if images.interpolation == "random" else images.interpolation
    mode = {"shortest": "center", "squash": "squash"}[images.resize_mode]
    timm = {**images.extra, "interpolation": interpolation, "input_size": (3, side, side)}
    usual = Preprocessing(side, side, "bicubic", *OPENAI)
    return from_timm({**timm, "crop_pct": 1.0, "crop_mode": mode}, usual)
