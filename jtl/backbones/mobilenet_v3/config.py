"""MobileNetV3, from torchvision's and timm's files."""

import re
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from jtl import backbones
from jtl.backbones.family import Family, Raw, changed, choice, loose, picture, real, whole
from jtl.backbones.mobilenet_v3 import names as maps
from jtl.backbones.mobilenet_v3.network import ROWS
from jtl.model import Model
from jtl.nn.conv_blocks import rounded
from jtl.preprocess.image import HALF, IMAGENET, Preprocessing
from jtl.weights.mapping.inverted_residual import Parts
from jtl.weights.mapping.rules import Rule

TORCHVISION = ("mobilenet_v3_large", "mobilenet_v3_small")
WORDS = {"in_chans": "num_channels"}
HIDDEN = {"large": 1280, "small": 1024}


def _named(name: str, changes: Mapping[str, Any]) -> Raw | None:
    if name in TORCHVISION:
        config = {"model_type": "mobilenet_v3", "size": name.removeprefix("mobilenet_v3_")}
        return changed(config, changes, {**WORDS, "width_mult": "depth_multiplier"})
    found = re.fullmatch(r"(tf_|)mobilenetv3_(large|small)_(050|075|100)", name)
    if not found or (found[3] == "050" and found[1] + found[2] != "small"):
        return None
    config = {"model_type": "mobilenet_v3", "size": found[2], "depth_multiplier": int(found[3]) / 100}
    config |= {"scaling": "timm", "tf_padding": bool(found[1]), "layer_norm_eps": 1e-3 if found[1] else 1e-5}
    return changed(config, changes, WORDS)


def _complete(config: Raw, naming: str) -> Raw:
    if naming in ("torchvision", "timm"):
        config = {"scaling": naming, **config}
    timm = config.get("scaling") == "timm"
    usual = {"num_channels": 3, "size": "large", "depth_multiplier": 1.0, "tf_padding": False}
    config = {**usual, "layer_norm_eps": 1e-5 if timm else 1e-3, **config}
    choice(config, "size", ROWS)
    choice({"scaling": "timm", **config}, "scaling", ("torchvision", "timm"))
    choice(config, "tf_padding", (False, True))
    whole(config, "num_channels")
    real(config, "depth_multiplier", 16)
    hidden = HIDDEN[config["size"]]
    config = {"intermediate_size": hidden if timm else rounded(hidden * config["depth_multiplier"]), **config}
    whole(config, "intermediate_size")
    real(config, "layer_norm_eps", 1.0)
    return config


def _backbone(config: Raw) -> Model:
    return backbones.mobilenet_v3(
        config["size"],
        config["depth_multiplier"],
        hidden=config["intermediate_size"],
        scaling=config.get("scaling", "torchvision"),
        same_padding=config["tf_padding"],
        eps=config["layer_norm_eps"],
    )


def _tables(config: Raw) -> dict[str, Sequence[Rule]]:
    # Only the first block does not expand, at any width; timm counts blocks by their stages, of as many channels each.
    rows = [(row.channels, Parts(i > 0, row.squeeze)) for i, row in enumerate(ROWS[config["size"]])]
    stages = [[parts for _, parts in stage] for _, stage in groupby(rows, lambda row: row[0])]
    found: dict[str, Sequence[Rule]] = {
        "torchvision": maps.torchvision([parts for _, parts in rows]),
        "timm": maps.timm(stages),
    }
    # The two differ in what `width` does and in ε, so a network of one is none of the other.
    return {name: table for name, table in found.items() if config.get("scaling", name) == name}


def _usual(name: str, config: Raw) -> Preprocessing:
    del config
    if name.startswith("mobilenetv3"):
        return Preprocessing(256, 224, "bicubic", *IMAGENET)
    return Preprocessing(256, 224, "bilinear", *(HALF if name.startswith("tf_") else IMAGENET))


MOBILENET_V3 = Family(
    names="mobilenet_v3_{large,small}, mobilenetv3_large_{075,100}, mobilenetv3_small_{050,075,100}, "
    "tf_mobilenetv3_{large,small}_{075,100}",
    named=_named,
    config=loose("mobilenet_v3", _complete),
    backbone=_backbone,
    example=lambda config: picture(64, config["num_channels"]),
    tables=_tables,
    usual=_usual,
    architecture=None,
    torchvision=TORCHVISION,
)
FAMILIES = (MOBILENET_V3,)
