"""Vision transformers."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from jtl import backbones
from jtl.backbones.family import Config, Family, changed, must_be, picture, real, whole
from jtl.backbones.vit import names as maps
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
) -> Config | None:
    """The measures of a network of `model_type` `kind`, where its name is one of `pattern`: size, patch and image."""
    found = re.fullmatch(pattern, name)
    if not found:
        return None
    width, depth, heads = SIZES[found[1]]
    config: Config = {
        "hidden_size": width,
        "num_hidden_layers": depth,
        "num_attention_heads": heads,
        "patch_size": int(found[2]),
        "image_size": int(found[3]),
        "mlp_ratio": _RATIOS.get(found[1], 4),
    }
    config = changed(config, changes, words)
    whole(config, "hidden_size")
    real(config, "mlp_ratio", 64)
    hidden = int(config["hidden_size"] * config.pop("mlp_ratio"))
    return {"model_type": kind, **config, "intermediate_size": hidden}


def complete(config: Config, naming: str) -> Config:
    """With every measure; timm's epsilon is another than transformers'."""
    usual = {
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "layer_norm_eps": 1e-12 if naming == "transformers" else 1e-6,
        "image_size": 224,
        "patch_size": 16,
        "num_channels": 3,
        "qkv_bias": True,
    }
    config = {**usual, **config}
    whole(config, "hidden_size", "num_attention_heads", "intermediate_size", "image_size", "patch_size", "num_channels")
    whole(config, "num_hidden_layers", most=256)
    real(config, "layer_norm_eps", 1.0)
    real(config, "hidden_dropout_prob", 1.0)
    real(config, "attention_probs_dropout_prob", 1.0)
    return config


def measures(config: Config) -> dict[str, Any]:
    """What `backbones.vit` takes."""
    must_be(config, hidden_act="gelu", qkv_bias=True)
    size = backbones.Size(
        config["hidden_size"],
        config["num_hidden_layers"],
        config["num_attention_heads"],
        config["intermediate_size"],
    )
    return {
        "size": size,
        "patch": config["patch_size"],
        "image": config["image_size"],
        "eps": config["layer_norm_eps"],
        "dropout": config["hidden_dropout_prob"],
        "attention_dropout": config["attention_probs_dropout_prob"],
    }


def _tables(config: Config) -> dict[str, Sequence[Rule]]:
    return {
        "transformers": maps.transformers(),
        "timm": maps.timm(),
        "original": maps.original(config["num_attention_heads"], config["hidden_size"]),
    }


def usual(name: str, config: Config) -> Preprocessing:
    """As timm has it; of the DeiTs with the mean and deviation of ImageNet."""
    side = config["image_size"]
    share = 0.9 if side < 384 else 1.0
    return Preprocessing(int(side / share), side, "bicubic", *(IMAGENET if name.startswith("deit") else HALF))


VIT = Family(
    names="vit_{tiny,small,base,large}_patch{16,32,...}_{224,384,...}, "
    "deit_{tiny,small,base}_patch16_224, deit_base_patch16_384",
    named=lambda name, changes: named("vit", r"(?:vit|deit)_(tiny|small|base|large)_patch(\d+)_(\d+)", name, changes),
    complete=complete,
    backbone=lambda config: backbones.vit(**measures(config)),
    example=lambda config: picture(config["image_size"], config["num_channels"]),
    tables=_tables,
    usual=usual,
    architecture="ViTForImageClassification",
    depth=("num_hidden_layers",),
)
