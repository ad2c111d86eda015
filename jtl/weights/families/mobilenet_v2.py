"""MobileNetV2."""

from collections.abc import Mapping
from typing import Any

from jtl import backbones
from jtl.model import Model
from jtl.weights.families.base import Config, Family, changed, must_be, picture, real, whole
from jtl.weights.maps import mobilenet_v2 as maps
from jtl.weights.preprocessing import IMAGENET, Preprocessing


def _named(name: str, changes: Mapping[str, Any]) -> Config | None:
    if name != "mobilenet_v2":
        return None
    return changed({"model_type": "mobilenet_v2"}, changes, {"width_mult": "depth_multiplier"})


def _complete(config: Config, naming: str) -> Config:
    theirs = naming == "transformers"
    usual = {
        "num_channels": 3,
        "depth_multiplier": 1.0,
        "depth_divisible_by": 8,
        "min_depth": 8,
        "expand_ratio": 6.0,
        "output_stride": 32,
        "first_layer_is_expansion": True,
        "finegrained_output": True,
        "hidden_act": "relu6",
        "tf_padding": theirs,
        "layer_norm_eps": 1e-3 if theirs else 1e-5,
    }
    config = {**usual, **config}
    whole(config, "num_channels")
    real(config, "depth_multiplier", 16)
    real(config, "layer_norm_eps", 1.0)
    return config


def _backbone(config: Config) -> Model:
    must_be(config, depth_divisible_by=8, min_depth=8, expand_ratio=6, output_stride=32, hidden_act="relu6")
    must_be(config, first_layer_is_expansion=True, finegrained_output=True)
    return backbones.mobilenet_v2(
        config["depth_multiplier"], same_padding=config["tf_padding"], eps=config["layer_norm_eps"]
    )


MOBILENET_V2 = Family(
    names="mobilenet_v2",
    named=_named,
    complete=_complete,
    backbone=_backbone,
    example=lambda config: picture(64, config["num_channels"]),
    tables=lambda config: {"transformers": maps.transformers(), "torchvision": maps.torchvision()},
    usual=lambda name, config: Preprocessing(256, 224, "bilinear", *IMAGENET),
    architecture="MobileNetV2ForImageClassification",
)
