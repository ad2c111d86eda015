"""MobileNetV2."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from jtl import backbones, heads
from jtl.backbones.family import Family, Raw, changed, choice, loose, must_be, picture, real, whole
from jtl.backbones.mobilenet_v2 import names as maps
from jtl.backbones.mobilenet_v2.network import repeats
from jtl.model import Model
from jtl.preprocess.image import IMAGENET, Preprocessing
from jtl.weights.mapping.rules import Rule

WORDS = {"in_chans": "num_channels"}
DEEPER = {"110d": {"depth_coefficient": 1.2}, "120d": {"depth_coefficient": 1.4}}


def _named(name: str, changes: Mapping[str, Any]) -> Raw | None:
    if name == "mobilenet_v2":
        return changed({"model_type": "mobilenet_v2"}, changes, {**WORDS, "width_mult": "depth_multiplier"})
    found = re.fullmatch(r"mobilenetv2_(035|050|075|100|140|110d|120d)", name)
    if not found:
        return None
    config = {"model_type": "mobilenet_v2", "depth_multiplier": int(found[1][:3]) / 100}
    return changed(config | DEEPER.get(found[1], {}), changes, WORDS)


def _complete(config: Raw, naming: str) -> Raw:
    theirs = naming == "transformers"
    usual = {
        "num_channels": 3,
        "depth_multiplier": 1.0,  # on channels; transformers' word
        "depth_coefficient": 1.0,
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
    real(config, "depth_coefficient", 16)
    real({"classifier_dropout_prob": 0.0, **config}, "classifier_dropout_prob", 0.99)
    choice(config, "tf_padding", (False, True))
    real(config, "layer_norm_eps", 1.0)
    return config


def _backbone(config: Raw) -> Model:
    must_be(config, depth_divisible_by=8, min_depth=8, expand_ratio=6, output_stride=32, hidden_act="relu6")
    must_be(config, first_layer_is_expansion=True, finegrained_output=True)
    return backbones.mobilenet_v2(
        config["depth_multiplier"],
        depth=config["depth_coefficient"],
        same_padding=config["tf_padding"],
        eps=config["layer_norm_eps"],
    )


def _tables(config: Raw) -> dict[str, Sequence[Rule]]:
    if config["depth_coefficient"] != 1:  # only timm has such
        return {"timm": maps.timm(repeats(config["depth_coefficient"]))}
    found: dict[str, Sequence[Rule]] = {"transformers": maps.transformers()}
    if not config["tf_padding"] and config["layer_norm_eps"] == 1e-5:  # the others know no other
        found |= {"torchvision": maps.torchvision(), "timm": maps.timm(repeats())}
    return found


def _usual(name: str, config: Raw) -> Preprocessing:
    del config
    return Preprocessing(256, 224, "bicubic" if name.startswith("mobilenetv2") else "bilinear", *IMAGENET)


MOBILENET_V2 = Family(
    names="mobilenet_v2, mobilenetv2_{035,050,075,100,110d,120d,140}",
    named=_named,
    config=loose("mobilenet_v2", _complete),
    backbone=_backbone,
    example=lambda config: picture(64, config["num_channels"]),
    tables=_tables,
    usual=_usual,
    architecture="MobileNetV2ForImageClassification",
    head=lambda config, classes: heads.linear(classes, dropout=config.get("classifier_dropout_prob", 0.0)),
    torchvision=("mobilenet_v2",),
)
FAMILIES = (MOBILENET_V2,)
