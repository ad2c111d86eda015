"""Swin."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from jtl import backbones
from jtl.backbones.family import Family, Raw, changed, loose, must_be, own_words, picture, real, whole, wholes
from jtl.backbones.swin import names as maps
from jtl.model import Model
from jtl.preprocess.image import IMAGENET, Preprocessing
from jtl.weights.mapping.rules import Rule

_SIZES = {
    "tiny": (96, [2, 2, 6, 2], [3, 6, 12, 24]),
    "small": (96, [2, 2, 18, 2], [3, 6, 12, 24]),
    "base": (128, [2, 2, 18, 2], [4, 8, 16, 32]),
    "large": (192, [2, 2, 18, 2], [6, 12, 24, 48]),
}
_RESIZED = {"swin_t": 232, "swin_s": 246, "swin_b": 238}
"""torchvision's names, and its size of the short side before a square of 224 pixels is cut out."""
_WORDS = {
    "img_size": "image_size",
    "patch_size": "patch_size",
    "embed_dim": "embed_dim",
    "depths": "depths",
    "num_heads": "num_heads",
    "window_size": "window_size",
    "mlp_ratio": "mlp_ratio",
    "in_chans": "num_channels",
    "drop_path_rate": "drop_path_rate",
}


def _named(name: str, changes: Mapping[str, Any]) -> Raw | None:
    found = re.fullmatch(r"swin_(tiny|small|base|large)_patch(\d{1,2})_window(\d{1,2})_(\d{1,4})", name)
    if found:
        kind, patch, window, image = found[1], *map(int, found.groups()[1:])
    elif name in _RESIZED:
        kind = next(kind for kind in _SIZES if kind[0] == name[-1])
        patch, window, image = 4, 7, 224
    else:
        return None
    width, depths, heads = _SIZES[kind]
    config = {"embed_dim": width, "depths": depths, "num_heads": heads}
    config |= {"patch_size": patch, "window_size": window, "image_size": image}
    return changed({"model_type": "swin", **config}, changes, _WORDS)


def _complete(config: Raw, naming: str) -> Raw:
    del naming
    usual = {
        "image_size": 224,
        "patch_size": 4,
        "num_channels": 3,
        "embed_dim": 96,
        "depths": [2, 2, 6, 2],
        "num_heads": [3, 6, 12, 24],
        "window_size": 7,
        "mlp_ratio": 4.0,
        "qkv_bias": True,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "drop_path_rate": 0.1,
        "hidden_act": "gelu",
        "use_absolute_embeddings": False,
        "layer_norm_eps": 1e-5,
    }
    config = {**usual, **own_words(config, {"num_attention_heads": "num_heads"})}
    whole(config, "image_size", "num_channels")
    whole(config, "embed_dim", most=1 << 12)
    whole(config, "patch_size", "window_size", most=64)
    wholes(config, "depths", "num_heads", most=256, longest=6)
    real(config, "mlp_ratio", 64)
    real(config, "layer_norm_eps", 1.0)
    for name in ("hidden_dropout_prob", "attention_probs_dropout_prob", "drop_path_rate"):
        real(config, name, 0.99)
    return config


def _backbone(config: Raw) -> Model:
    must_be(config, hidden_act="gelu", qkv_bias=True, use_absolute_embeddings=False)
    depths, heads = config["depths"], config["num_heads"]
    if len(depths) != len(heads):
        raise ValueError(f"num_heads of {len(heads)} stages and depths of {len(depths)}: give as many")
    return backbones.swin(
        (config["embed_dim"], list(zip(depths, heads, strict=True))),
        window=config["window_size"],
        patch=config["patch_size"],
        mlp_ratio=config["mlp_ratio"],
        eps=config["layer_norm_eps"],
        dropout=config["hidden_dropout_prob"],
        attention_dropout=config["attention_probs_dropout_prob"],
        drop_path=config["drop_path_rate"],
    )


def _tables(config: Raw) -> dict[str, Sequence[Rule]]:
    depths = config["depths"]
    return {
        "transformers": maps.transformers(depths),
        "timm": maps.timm(depths),
        "torchvision": maps.torchvision(depths),
        "original": maps.original(depths),
    }


def _usual(name: str, config: Raw) -> Preprocessing:
    if name in _RESIZED:
        return Preprocessing(_RESIZED[name], 224, "bicubic", *IMAGENET)
    side = config["image_size"]
    return Preprocessing(int(side / 0.9) if side < 384 else side, side, "bicubic", *IMAGENET)


SWIN = Family(
    names="swin_{tiny,small,base,large}_patch4_window7_224, swin_{base,large}_patch4_window12_384, swin_{t,s,b}",
    named=_named,
    config=loose("swin", _complete),
    backbone=_backbone,
    example=lambda config: picture(config["patch_size"] << len(config["depths"]), config["num_channels"]),
    tables=_tables,
    usual=_usual,
    architecture="SwinForImageClassification",
    torchvision=tuple(_RESIZED),
    depth=("depths", "num_heads", "num_layers"),
)
FAMILIES = (SWIN,)
