"""Vision transformers."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from jtl.backbones.config import Rate, Ratio, TransformerConfig, Whole, read
from jtl.backbones.family import Family, changed, picture
from jtl.backbones.vit import names as maps
from jtl.backbones.vit.network import vit
from jtl.preprocess.image import HALF, IMAGENET, Preprocessing
from jtl.weights.mapping.rules import Rule

SIZES = {
    "tiny": (192, 12, 3),
    "xsmall": (256, 10, 4),
    "small": (384, 12, 6),
    "medium": (512, 12, 8),
    "betwixt": (640, 12, 10),
    "base": (768, 12, 12),
    "base_plus": (896, 12, 14),
    "large": (1024, 24, 16),
    "so400m": (1152, 27, 16),
    "huge": (1280, 32, 16),
    "giant": (1408, 40, 16),
    "giantopt": (1536, 40, 16),
    "gigantic": (1664, 48, 16),
}
_PATTERN = r"(?:vit|deit)_(tiny|small|base|large)_patch(\d+)_(\d+)"
_RATIOS = {"so400m": 3.7362, "giant": 48 / 11, "gigantic": 64 / 13}
WORDS = {
    "img_size": "image_size",
    "patch_size": "patch_size",
    "embed_dim": "hidden_size",
    "depth": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "mlp_ratio": "mlp_ratio",
    "in_chans": "num_channels",
}


def named(
    kind: str, pattern: str, name: str, changes: Mapping[str, Any], words: Mapping[str, str] = WORDS
) -> dict[str, Any] | None:
    """The entries of a `kind` network whose name matches `pattern` (size, patch, image); None for other names."""
    found = re.fullmatch(pattern, name)
    if not found:
        return None
    width, depth, heads = SIZES[found[1]]
    config: dict[str, Any] = {
        "hidden_size": width,
        "num_hidden_layers": depth,
        "num_attention_heads": heads,
        "patch_size": int(found[2]),
        "image_size": int(found[3]),
        "mlp_ratio": _RATIOS.get(found[1], 4),
    }
    config = changed(config, changes, words)
    ratio = read(Ratio, "mlp_ratio", config.pop("mlp_ratio"))
    hidden = int(read(Whole, "hidden_size", config["hidden_size"]) * ratio)
    return {"model_type": kind, **config, "intermediate_size": hidden}


class VisionConfig(TransformerConfig):
    """The entries that the vision transformers have in common."""

    attention_probs_dropout_prob: Rate = 0.0
    layer_norm_eps: Rate = 1e-6
    image_size: Whole = 224
    patch_size: Whole = 16
    num_channels: Whole = 3
    qkv_bias: Literal[True] = True


class ViTConfig(VisionConfig, model_type="vit"):
    """The config of a ViT; timm's epsilon differs from transformers'."""

    hidden_act: Literal["gelu"] = "gelu"
    hidden_dropout_prob: Rate = 0.0

    @classmethod
    def _fill(cls, given: Mapping[str, Any], naming: str) -> Mapping[str, Any]:
        return {"layer_norm_eps": 1e-12, **given} if naming == "transformers" else given


def measures(config: ViTConfig) -> dict[str, Any]:
    """The arguments of `vit`, and of other networks built from its blocks."""
    return {
        "size": config.size,
        "patch": config.patch_size,
        "image": config.image_size,
        "eps": config.layer_norm_eps,
        "dropout": config.hidden_dropout_prob,
        "attention_dropout": config.attention_probs_dropout_prob,
    }


def _tables(config: ViTConfig) -> dict[str, Sequence[Rule]]:
    return {
        "transformers": maps.transformers(),
        "timm": maps.timm(),
        "original": maps.original(config.num_attention_heads, config.hidden_size),
    }


def usual(name: str, config: ViTConfig) -> Preprocessing:
    """The preprocessing that timm uses by default; for DeiTs, with ImageNet's mean and standard deviation."""
    side = config.image_size
    share = 0.9 if side < 384 else 1.0
    return Preprocessing(int(side / share), side, "bicubic", *(IMAGENET if name.startswith("deit") else HALF))


FAMILIES = (
    Family(
        config=ViTConfig,
        names="vit_{tiny,small,base,large}_patch{16,32,...}_{224,384,...}, "
        "deit_{tiny,small,base}_patch16_224, deit_base_patch16_384",
        named=lambda name, changes: named("vit", _PATTERN, name, changes),
        backbone=lambda config: vit(**measures(config)),
        example=lambda config: picture(config.image_size, config.num_channels),
        tables=_tables,
        usual=usual,
        architecture="ViTForImageClassification",
        depth=("num_hidden_layers",),
    ),
)
