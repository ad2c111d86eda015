"""ConvNeXt."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from jtl import backbones
from jtl.backbones.convnext import names as maps
from jtl.backbones.family import Family, Raw, changed, choice, loose, must_be, picture, real, stages, whole, wholes
from jtl.model import Model
from jtl.preprocess.image import IMAGENET, Preprocessing
from jtl.weights.mapping.rules import Rule

_SIZES = {
    "atto": ([2, 2, 6, 2], 40),
    "femto": ([2, 2, 6, 2], 48),
    "pico": ([2, 2, 6, 2], 64),
    "nano": ([2, 2, 8, 2], 80),
    "tiny": ([3, 3, 9, 3], 96),
    "small": ([3, 3, 27, 3], 96),
    "base": ([3, 3, 27, 3], 128),
    "large": ([3, 3, 27, 3], 192),
    "xlarge": ([3, 3, 27, 3], 256),
}
_SMALL = ("atto", "femto", "pico", "nano")  # timm's own, whose dense layers are 1x1 convolutions in its files
# timm's: channels in an overlapping stem, a normalisation before the mean, a layer before the classifier.
_OTHERS = {
    **{f"{size}_ols": {"stem_hidden": width} for size, width in zip(_SMALL, (24, 24, 32, 80), strict=True)},
    "tiny_hnf": {"norm_first": True, "conv_mlp": True},
    "large_mlp": {"head_hidden_size": 1536},
}
_WORDS = {"depths": "depths", "dims": "hidden_sizes", "in_chans": "num_channels", "drop_path_rate": "drop_path_rate"}


def _named(name: str, changes: Mapping[str, Any]) -> Raw | None:
    found = re.fullmatch(r"convnext_(\w+)", name)
    if not found or (found[1] not in _SIZES and found[1] not in _OTHERS):
        return None
    size = found[1].partition("_")[0]
    depths, width = _SIZES[size]
    config = {"model_type": "convnext", "depths": depths, "hidden_sizes": [width * 2**i for i in range(4)]}
    config |= {"conv_mlp": True} if size in _SMALL else {}
    return changed(config | _OTHERS.get(found[1], {}), changes, _WORDS)


def _complete(config: Raw, naming: str) -> Raw:
    usual = {
        "num_channels": 3,
        "patch_size": 4,
        "hidden_sizes": [96, 192, 384, 768],
        "depths": [3, 3, 9, 3],
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-12 if naming == "transformers" else 1e-6,
        "layer_scale_init_value": 1e-6,
        "drop_path_rate": 0.0,
    }
    config = {**usual, **config}
    whole(config, "num_channels")
    whole(config, "patch_size", most=64)
    wholes(config, "hidden_sizes", longest=8)
    wholes(config, "depths", most=256, longest=8)
    real(config, "layer_norm_eps", 1.0)
    real(config, "layer_scale_init_value", 16.0)
    real(config, "drop_path_rate", 0.99)
    for name in ("conv_mlp", "norm_first"):
        choice({name: False, **config}, name, (False, True))
    whole(config, *(name for name in ("stem_hidden", "head_hidden_size") if name in config))
    return config


def _backbone(config: Raw) -> Model:
    must_be(config, hidden_act="gelu")
    return backbones.convnext(
        stages(config),
        patch=config["patch_size"],
        eps=config["layer_norm_eps"],
        layer_scale=config["layer_scale_init_value"] or None,
        drop_path=config["drop_path_rate"],
        overlap=config.get("stem_hidden"),
        norm_first=config.get("norm_first", False),
        hidden=config.get("head_hidden_size"),
    )


def _tables(config: Raw) -> dict[str, Sequence[Rule]]:
    depths, conv_mlp = config["depths"], config.get("conv_mlp", False)
    own = {
        "overlap": "stem_hidden" in config,
        "norm_first": config.get("norm_first", False),
        "hidden": "head_hidden_size" in config,
    }
    timm = maps.timm(depths, conv_mlp, **own)
    if any(own.values()):  # only timm has such
        return {"timm": timm}
    tables: dict[str, Sequence[Rule]] = {"transformers": maps.transformers(depths), "timm": timm}
    return tables if conv_mlp else {**tables, "torchvision": maps.torchvision(depths)}


def _usual(name: str, config: Raw) -> Preprocessing:
    del config
    return Preprocessing(235 if name == "convnext_nano" else 256, 224, "bicubic", *IMAGENET)


CONVNEXT = Family(
    names="convnext_{atto,femto,pico,nano}{,_ols}, convnext_{tiny,tiny_hnf,small,base,large,large_mlp,xlarge}",
    named=_named,
    config=loose("convnext", _complete),
    backbone=_backbone,
    example=lambda config: picture(config["patch_size"] << len(config["depths"]), config["num_channels"]),
    tables=_tables,
    usual=_usual,
    architecture="ConvNextForImageClassification",
    depth=("depths", "hidden_sizes", "num_stages"),
)
FAMILIES = (CONVNEXT,)
