"""EfficientNet."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from jtl import backbones, heads
from jtl.backbones.efficientnet import names as maps
from jtl.backbones.efficientnet.network import SCALES, STAGES, MBStage
from jtl.backbones.family import Family, Raw, changed, choice, loose, must_be, picture, real, whole, wholes
from jtl.model import Model
from jtl.nn.conv_blocks import rounded
from jtl.preprocess.image import IMAGENET, Preprocessing
from jtl.weights.mapping.rules import Rule

_LISTS = ("in_channels", "out_channels", "kernel_sizes", "strides", "num_block_repeats", "expand_ratios")
_SIDES = {"b0": 224, "b1": 240, "b2": 260, "b3": 300, "b4": 380, "b5": 456, "b6": 528, "b7": 600}


def _named(name: str, changes: Mapping[str, Any]) -> Raw | None:
    found = re.fullmatch(r"(tf_|)efficientnet_(b[0-7])", name)
    if not found:
        return None
    width, depth = SCALES[found[2]]
    config = {"model_type": "efficientnet", "width_coefficient": width, "depth_coefficient": depth}
    config |= {"hidden_dim": rounded(1280 * width), "image_size": _SIDES[found[2]]}
    if found[1]:
        config |= {"padding": "same", "batch_norm_eps": 1e-3}
    return changed(config, changes, {"in_chans": "num_channels", "drop_path_rate": "drop_connect_rate"})


def _complete(config: Raw, naming: str) -> Raw:
    usual = {
        "num_channels": 3,
        "width_coefficient": 2.0,
        "depth_coefficient": 3.1,
        "depth_divisor": 8,
        "in_channels": [32, *(stage.channels for stage in STAGES[:-1])],
        "out_channels": [stage.channels for stage in STAGES],
        "kernel_sizes": [stage.kernel for stage in STAGES],
        "strides": [stage.stride for stage in STAGES],
        "num_block_repeats": [stage.repeats for stage in STAGES],
        "expand_ratios": [stage.expansion for stage in STAGES],
        "depthwise_padding": [],
        "squeeze_expansion_ratio": 0.25,
        "hidden_act": "swish",
        "hidden_dim": 2560,
        "pooling_type": "mean",
        "drop_connect_rate": 0.2,
    }
    config = {**usual, **config}
    for name in ("width_coefficient", "depth_coefficient", "squeeze_expansion_ratio"):
        real(config, name, 16)
    if naming == "transformers":
        config = {"batch_norm_eps": 1e-3, **config}
    elif naming:
        # What torchvision trained itself has 1e-5; from b5 on its weights were converted.
        converted = naming == "torchvision" and config["width_coefficient"] >= 1.6
        config = {"batch_norm_eps": 1e-3 if converted else 1e-5, "padding": "torch", **config}
    real({"batch_norm_eps": 1e-3, **config}, "batch_norm_eps", 1.0)
    real(config, "drop_connect_rate", 0.99)
    real({"dropout_rate": 0.0, **config}, "dropout_rate", 0.99)
    whole(config, "num_channels", "hidden_dim")
    wholes(config, "in_channels", "out_channels", longest=16)
    wholes(config, "strides", most=2, longest=16)
    wholes(config, "kernel_sizes", most=31, longest=16)
    wholes(config, "num_block_repeats", "expand_ratios", most=64, longest=16)
    if config["depthwise_padding"] not in ([], ()):
        wholes(config, "depthwise_padding", least=0, most=1 << 12, longest=1 << 12)
    choice({"padding": "torch", **config}, "padding", ("torch", "same"))
    return config


def _backbone(config: Raw) -> Model:
    inputs = [32, *config["out_channels"][:-1]]
    must_be(config, hidden_act="swish", pooling_type="mean", depth_divisor=8)
    if len({len(config[name]) for name in _LISTS}) != 1:
        raise ValueError(f"{', '.join(_LISTS)} are of {[len(config[name]) for name in _LISTS]} stages: give as many")
    if list(config["in_channels"]) != inputs:
        raise ValueError(f"in_channels={config['in_channels']}: only {inputs} is read, the outputs before each stage")
    must_be(config, hidden_dim=rounded(1280 * config["width_coefficient"]))
    lists = (config[name] for name in ("expand_ratios", "out_channels", "num_block_repeats", "strides", "kernel_sizes"))
    return backbones.efficientnet(
        (config["width_coefficient"], config["depth_coefficient"]),
        stages=[MBStage(*stage) for stage in zip(*lists, strict=True)],
        padding=config.get("padding", config["depthwise_padding"]),
        squeeze=config["squeeze_expansion_ratio"],
        eps=config.get("batch_norm_eps", 1e-3),
        drop_path=config["drop_connect_rate"],
    )


def _tables(config: Raw) -> dict[str, Sequence[Rule]]:
    repeats = [math.ceil(count * config["depth_coefficient"]) for count in config["num_block_repeats"]]
    stages = [(count, ratio > 1) for count, ratio in zip(repeats, config["expand_ratios"], strict=False)]
    # Each library's network pads in its own way, and can be written for no other.
    if "padding" not in config and "batch_norm_eps" in config:
        return {"transformers": maps.transformers(stages)}
    tables: dict[str, Sequence[Rule]] = {"timm": maps.timm(stages)}
    if config.get("padding") != "same":
        tables["torchvision"] = maps.torchvision(stages)
    return tables if "padding" in config else {"transformers": maps.transformers(stages), **tables}


def _usual(name: str, config: Raw) -> Preprocessing:
    del name
    side = config["image_size"]
    return Preprocessing(side + 32, side, "bicubic", *IMAGENET)


EFFICIENTNET = Family(
    names="{,tf_}efficientnet_{b0,b1,b2,b3,b4,b5,b6,b7}",
    named=_named,
    config=loose("efficientnet", _complete),
    backbone=_backbone,
    example=lambda config: picture(64, config["num_channels"]),
    tables=_tables,
    usual=_usual,
    architecture="EfficientNetForImageClassification",
    head=lambda config, classes: heads.linear(classes, dropout=config.get("dropout_rate", 0.0)),
)
FAMILIES = (EFFICIENTNET,)
