"""DenseNet, from torchvision's and timm's files."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from jtl import backbones
from jtl.backbones.densenet import names as maps
from jtl.backbones.family import Family, Raw, changed, loose, picture, whole, wholes
from jtl.model import Model
from jtl.preprocess.image import IMAGENET, Preprocessing
from jtl.weights.mapping.rules import Rule

_SIZES = {
    "121": (32, [6, 12, 24, 16], 64),
    "161": (48, [6, 12, 36, 24], 96),
    "169": (32, [6, 12, 32, 32], 64),
    "201": (32, [6, 12, 48, 32], 64),
}


def _named(name: str, changes: Mapping[str, Any]) -> Raw | None:
    found = re.fullmatch(r"densenet(121|161|169|201)", name)
    if not found:
        return None
    growth, depths, stem = _SIZES[found[1]]
    config = {"model_type": "densenet", "growth_rate": growth, "depths": depths, "embedding_size": stem}
    words = {"growth_rate": "growth_rate", "block_config": "depths", "bn_size": "bottleneck_ratio"}
    words |= {"in_chans": "num_channels"}
    return changed(config, changes, words)


def _complete(config: Raw, naming: str) -> Raw:
    del naming
    usual = {
        "num_channels": 3,
        "growth_rate": 32,
        "depths": [6, 12, 24, 16],
        "embedding_size": 64,
        "bottleneck_ratio": 4,
    }
    config = {**usual, **config}
    whole(config, "num_channels", "growth_rate", "embedding_size")
    whole(config, "bottleneck_ratio", most=64)
    wholes(config, "depths", most=128, longest=8)
    return config


def _backbone(config: Raw) -> Model:
    size = backbones.DenseSize(config["growth_rate"], tuple(config["depths"]), config["embedding_size"])
    return backbones.densenet(size, bottleneck=config["bottleneck_ratio"])


def _tables(config: Raw) -> dict[str, Sequence[Rule]]:
    rules = maps.torchvision(config["depths"])
    return {"torchvision": rules, "timm": rules}


DENSENET = Family(
    names="densenet{121,161,169,201}",
    named=_named,
    config=loose("densenet", _complete),
    backbone=_backbone,
    example=lambda config: picture(2 << len(config["depths"]), config["num_channels"]),
    tables=_tables,
    usual=lambda name, config: Preprocessing(256, 224, "bilinear", *IMAGENET),
    architecture=None,
)
FAMILIES = (DENSENET,)
