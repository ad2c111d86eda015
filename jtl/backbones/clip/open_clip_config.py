"""What OpenCLIP says of a network beside its weights, in transformers' words."""

from collections.abc import Mapping
from typing import Any

from jtl.backbones.family import Config, choice, real, whole
from jtl.preprocess.image import OPENAI, Preprocessing, from_timm
from jtl.weights.formats.errors import show

_VISION = {"image_size": 224, "patch_size": 16, "width": 768, "layers": 12, "head_width": 64, "mlp_ratio": 4.0}
_TEXT = {"context_length": 77, "vocab_size": 49408, "width": 512, "layers": 12, "heads": 8, "mlp_ratio": 4.0}
_SAME = {"pos_embed_type": "learnable", "block_type": "default", "proj_type": "linear"}  # said of every network
_IDLE = {"patch_dropout", "output_tokens", "pad_id", "eos_id"}
_IDLE |= {"hf_tokenizer_name", "tokenizer_mode", "tokenizer_kwargs"}


def config_of(said: Mapping[str, Any]) -> Config:
    """CLIP's measures by transformers' words.

    Args:
      said: an `open_clip_config.json`: {"model_cfg": {"embed_dim", "vision_cfg", "text_cfg", "quick_gelu"}, ...}.

    Raises:
      ValueError: for a network whose towers are not CLIP's two transformers, and for what is no measure.
    """
    model: dict[str, Any] = _mapping(said, "model_cfg")
    vision = _part(model, "vision_cfg", _VISION, {**_SAME, "pool_type": "tok"})
    text = _part(model, "text_cfg", _TEXT, {**_SAME, "pool_type": "argmax"})
    model = {"quick_gelu": False, **model}
    choice(model, "quick_gelu", (True, False))
    whole(model, "embed_dim")
    _only("model_cfg", model, {"embed_dim", "vision_cfg", "text_cfg", "quick_gelu"}, {})
    act = "quick_gelu" if model["quick_gelu"] else "gelu"
    return {
        "model_type": "clip",
        "projection_dim": model["embed_dim"],
        "vision_config": {
            **_tower(vision, vision["width"] // vision["head_width"], act),
            "image_size": vision["image_size"],
            "patch_size": vision["patch_size"],
        },
        "text_config": {
            **_tower(text, text["heads"], act),
            "vocab_size": text["vocab_size"],
            "max_position_embeddings": text["context_length"],
            "eos_token_id": 2,  # by which transformers means OpenCLIP's way: the largest number ends a text
        },
    }


def preprocessing_of(said: Mapping[str, Any], side: int) -> Preprocessing:
    """What images go through: their short side is resized to `side`, or both are ("squash").

    Raises:
      ValueError: for a `preprocess_cfg` that says what jtl does not do.
    """
    given: dict[str, Any] = {"mode": "RGB", "resize_mode": "shortest", "interpolation": "bicubic"}
    given |= {name: value for name, value in _mapping(said, "preprocess_cfg").items() if value is not None}
    choice(given, "mode", ("RGB",))
    choice(given, "resize_mode", ("shortest", "squash"))
    choice(given, "interpolation", ("bicubic", "bilinear", "random"))
    if given["interpolation"] == "random":  # as training augments; else it is OpenCLIP's usual
        given["interpolation"] = "bicubic"
    mode = {"shortest": "center", "squash": "squash"}[given["resize_mode"]]
    usual = Preprocessing(side, side, "bicubic", *OPENAI)
    return from_timm({**given, "input_size": (3, side, side), "crop_pct": 1.0, "crop_mode": mode}, usual)


def _mapping(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = config.get(name, {})
    if not isinstance(value, Mapping):
        raise ValueError(f"{name}={show(str(value))}: give names and values")
    return dict(value)


def _part(model: Mapping[str, Any], name: str, usual: Mapping[str, Any], same: Mapping[str, Any]) -> dict[str, Any]:
    """One tower's measures, every one."""
    made = {**usual, **_mapping(model, name)}
    _only(name, made, {*usual, *_IDLE}, same)
    if isinstance(made["layers"], (list, tuple)):
        layers = str(made["layers"])[:120]
        raise ValueError(f"{name} with layers={layers} is CLIP's own ResNet, which is not read, only its ViTs")
    whole(made, *(measure for measure in usual if measure not in ("mlp_ratio", "vocab_size", "layers")))
    real(made, "mlp_ratio", 64.0)
    return made


def _only(name: str, given: Mapping[str, Any], known: set[str], same: Mapping[str, Any]) -> None:
    """Refuses what makes another network; what is off, null or as in every network does not."""
    others = {k: v for k, v in given.items() if k not in known and v not in (None, False) and same.get(k) != v}
    if others:
        raise ValueError(
            f"{name} with {str(others)[:120]} is not read, only OpenCLIP's own ViT and causal text transformer"
        )


def _tower(part: Mapping[str, Any], heads: int, act: str) -> dict[str, Any]:
    return {
        "hidden_size": part["width"],
        "num_hidden_layers": part["layers"],
        "num_attention_heads": heads,
        "intermediate_size": int(part["width"] * part["mlp_ratio"]),
        "hidden_act": act,
    }
