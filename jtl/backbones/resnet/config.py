"""ResNet v1.5."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from jtl import backbones
from jtl.backbones.family import Family, Raw, changed, loose, must_be, picture, whole
from jtl.backbones.resnet import names as maps
from jtl.backbones.resnet.network import DEPTHS, PLAIN
from jtl.model import Model
from jtl.preprocess.image import IMAGENET, Preprocessing
from jtl.weights.formats.errors import show
from jtl.weights.mapping.rules import Rule


def _named(name: str, changes: Mapping[str, Any]) -> Raw | None:
    found = re.fullmatch(r"resnet(18|26|34|50|101|152)", name)
    if not found:
        return None
    config = of_depth(int(found[1]), changes)
    wide = 4 if deep(config) else 1
    return {"model_type": "resnet", **config, "hidden_sizes": [64 * 2**i * wide for i in range(len(config["depths"]))]}


def of_depth(depth: int, changes: Mapping[str, Any]) -> Raw:
    """`layer_type` and `depths`, with timm's `model_args`."""
    config: Raw = {"layer_type": "basic" if depth in PLAIN else "bottleneck", "depths": list(DEPTHS[depth])}
    config = changed(config, changes, {"layers": "depths", "in_chans": "num_channels"})
    if not isinstance(config["depths"], list):
        raise ValueError(f"layers={show(config['depths'])}: give the number of blocks of each stage")
    return config


def _complete(config: Raw, naming: str) -> Raw:
    del naming
    usual = {
        "num_channels": 3,
        "embedding_size": 64,
        "hidden_sizes": [256, 512, 1024, 2048],
        "depths": [3, 4, 6, 3],
        "layer_type": "bottleneck",
        "hidden_act": "relu",
        "downsample_in_first_stage": False,
        "downsample_in_bottleneck": False,
    }
    config = {**usual, **config}
    depths = config["depths"]
    if not isinstance(depths, (list, tuple)) or not 1 <= len(depths) <= 8:
        raise ValueError(f"depths={show(str(depths))}: give the number of blocks of each of 1 to 8 stages")
    whole(
        {f"depths[{i}]": depth for i, depth in enumerate(depths)},
        *(f"depths[{i}]" for i in range(len(depths))),
        most=256,
    )
    whole(config, "embedding_size", "num_channels")
    return config


def _backbone(config: Raw) -> Model:
    must_be(config, hidden_act="relu", downsample_in_first_stage=False, downsample_in_bottleneck=False)
    if config["layer_type"] not in ("basic", "bottleneck"):
        raise ValueError(f"resnet with layer_type={show(config['layer_type'])}: give 'basic' or 'bottleneck'")
    wide, width = 4 if deep(config) else 1, config["embedding_size"]
    must_be(config, hidden_sizes=[width * 2**i * wide for i in range(len(config["depths"]))])
    return backbones.resnet(config["depths"], bottleneck=deep(config), width=width)


def deep(config: Raw) -> bool:
    """Whether its blocks are bottlenecks."""
    return config["layer_type"] == "bottleneck"


def _tables(config: Raw) -> dict[str, Sequence[Rule]]:
    convolutions = 3 if deep(config) else 2
    return {
        "transformers": maps.transformers(config["depths"], convolutions),
        "torchvision": maps.torchvision(config["depths"], convolutions),
        "timm": maps.torchvision(config["depths"], convolutions),
    }


def _usual(name: str, config: Raw) -> Preprocessing:
    del config
    # What timm alone has it trained with bicubic interpolation.
    return Preprocessing(256, 224, "bicubic" if name == "resnet26" else "bilinear", *IMAGENET)


RESNET = Family(
    names="resnet18, resnet26, resnet34, resnet50, resnet101, resnet152",
    named=_named,
    config=loose("resnet", _complete),
    backbone=_backbone,
    example=lambda config: picture(64, config["num_channels"]),
    tables=_tables,
    usual=_usual,
    architecture="ResNetForImageClassification",
    depth=("depths", "hidden_sizes"),
)
FAMILIES = (RESNET,)
