"""VGG, from torchvision's and timm's files, and AlexNet, from torchvision's."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from jtl import backbones
from jtl.backbones.family import Family, Raw, changed, choice, loose, picture, real, whole, wholes
from jtl.backbones.vgg import names as maps
from jtl.model import Model
from jtl.preprocess.image import IMAGENET, Preprocessing
from jtl.weights.mapping.rules import Rule

_DEPTHS = {"11": [1, 1, 2, 2, 2], "13": [2, 2, 2, 2, 2], "16": [2, 2, 3, 3, 3], "19": [2, 2, 4, 4, 4]}


def _named_vgg(name: str, changes: Mapping[str, Any]) -> Raw | None:
    found = re.fullmatch(r"vgg(11|13|16|19)(_bn|)", name)
    if not found:
        return None
    config = {"model_type": "vgg", "depths": _DEPTHS[found[1]], "batch_norm": bool(found[2])}
    return changed(config, changes, {"in_chans": "num_channels"})


def _complete_vgg(config: Raw, naming: str) -> Raw:
    del naming
    usual = {
        "num_channels": 3,
        "hidden_sizes": [64, 128, 256, 512, 512],
        "depths": [2, 2, 3, 3, 3],
        "batch_norm": False,
        "intermediate_size": 4096,
        "dropout": 0.5,
    }
    config = {**usual, **config}
    whole(config, "num_channels", "intermediate_size")
    wholes(config, "hidden_sizes", longest=8)
    wholes(config, "depths", most=64, longest=8)
    real(config, "dropout", 0.99)
    choice(config, "batch_norm", (False, True))
    return config


def _vgg(config: Raw) -> Model:
    depths, widths = config["depths"], config["hidden_sizes"]
    if len(depths) != len(widths):
        raise ValueError(f"hidden_sizes of {len(widths)} stages and depths of {len(depths)}: give as many")
    return backbones.vgg(
        list(zip(depths, widths, strict=True)),
        batch_norm=config["batch_norm"],
        hidden=config["intermediate_size"],
        dropout=config["dropout"],
    )


def _tables_vgg(config: Raw) -> dict[str, Sequence[Rule]]:
    measures = config["depths"], config["hidden_sizes"][-1], config["batch_norm"]
    return {"torchvision": maps.torchvision_vgg(*measures), "timm": maps.timm_vgg(*measures)}


def _named_alexnet(name: str, changes: Mapping[str, Any]) -> Raw | None:
    return changed({"model_type": "alexnet"}, changes, {"in_chans": "num_channels"}) if name == "alexnet" else None


def _complete_alexnet(config: Raw, naming: str) -> Raw:
    del naming
    usual = {
        "num_channels": 3,
        "hidden_sizes": [64, 192, 384, 256, 256],
        "intermediate_size": 4096,
        "dropout": 0.5,
    }
    config = {**usual, **config}
    whole(config, "num_channels", "intermediate_size")
    wholes(config, "hidden_sizes", longest=8)
    real(config, "dropout", 0.99)
    return config


def _alexnet(config: Raw) -> Model:
    return backbones.alexnet(
        widths=config["hidden_sizes"], hidden=config["intermediate_size"], dropout=config["dropout"]
    )


def _usual(name: str, config: Raw) -> Preprocessing:
    del name, config
    return Preprocessing(256, 224, "bilinear", *IMAGENET)


VGG = Family(
    names="vgg{11,13,16,19}, vgg{11,13,16,19}_bn",
    named=_named_vgg,
    config=loose("vgg", _complete_vgg),
    backbone=_vgg,
    example=lambda config: picture(1 << len(config["depths"]), config["num_channels"]),
    tables=_tables_vgg,
    usual=_usual,
    architecture=None,
)
ALEXNET = Family(
    names="alexnet",
    named=_named_alexnet,
    config=loose("alexnet", _complete_alexnet),
    backbone=_alexnet,
    example=lambda config: picture(64, config["num_channels"]),
    tables=lambda config: {"torchvision": maps.torchvision_alexnet(config["hidden_sizes"][-1])},
    usual=_usual,
    architecture=None,
)
FAMILIES = (VGG, ALEXNET)
