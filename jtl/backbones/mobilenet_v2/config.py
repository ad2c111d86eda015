"""MobileNetV2."""

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from jtl import heads
from jtl.backbones.config import Config, DropRate, Factor, Range, Rate, Whole
from jtl.backbones.family import Family, changed, picture
from jtl.backbones.mobilenet_v2 import names as maps
from jtl.backbones.mobilenet_v2.network import mobilenet_v2, repeats
from jtl.model import Model
from jtl.preprocess.image import IMAGENET, Preprocessing
from jtl.weights.mapping.rules import Rule

WORDS = {"in_chans": "num_channels", "drop_path_rate": "drop_path_rate"}
DEEPER = {"110d": {"depth_coefficient": 1.2}, "120d": {"depth_coefficient": 1.4}}


class MobileNetV2Config(Config, model_type="mobilenet_v2"):
    """The config of a MobileNetV2; `depth_multiplier` is transformers' name for the factor on the channels."""

    num_channels: Whole = 3
    depth_multiplier: Factor = 1.0
    depth_coefficient: Factor = 1.0
    depth_divisible_by: Literal[8] = 8
    min_depth: Literal[8] = 8
    expand_ratio: Annotated[float, Range(6, 6)] = 6.0
    output_stride: Literal[32] = 32
    first_layer_is_expansion: Literal[True] = True
    finegrained_output: Literal[True] = True
    hidden_act: Literal["relu6"] = "relu6"
    tf_padding: bool = False
    layer_norm_eps: Rate = 1e-5
    drop_path_rate: DropRate | None = None
    classifier_dropout_prob: DropRate | None = None

    @classmethod
    def _fill(cls, given: Mapping[str, Any], naming: str) -> Mapping[str, Any]:
        return {"tf_padding": True, "layer_norm_eps": 1e-3, **given} if naming == "transformers" else given


def _named(name: str, changes: Mapping[str, Any]) -> dict[str, Any] | None:
    if name == "mobilenet_v2":
        return changed({"model_type": "mobilenet_v2"}, changes, {**WORDS, "width_mult": "depth_multiplier"})
    found = re.fullmatch(r"mobilenetv2_(035|050|075|100|140|110d|120d)", name)
    if not found:
        return None
    config = {"model_type": "mobilenet_v2", "depth_multiplier": int(found[1][:3]) / 100}
    return changed(config | DEEPER.get(found[1], {}), changes, WORDS)


def _backbone(config: MobileNetV2Config) -> Model:
    return mobilenet_v2(
        config.depth_multiplier,
        depth=config.depth_coefficient,
        same_padding=config.tf_padding,
        eps=config.layer_norm_eps,
        drop_path=config.drop_path_rate or 0.0,
    )


def _tables(config: MobileNetV2Config) -> dict[str, Sequence[Rule]]:
    if config.depth_coefficient != 1:  # only timm has such networks
        return {"timm": maps.timm(repeats(config.depth_coefficient))}
    found: dict[str, Sequence[Rule]] = {"transformers": maps.transformers()}
    if not config.tf_padding and config.layer_norm_eps == 1e-5:  # the other libraries have nothing else
        found |= {"torchvision": maps.torchvision(), "timm": maps.timm(repeats())}
    return found


def _usual(name: str, config: MobileNetV2Config) -> Preprocessing:
    del config
    return Preprocessing(256, 224, "bicubic" if name.startswith("mobilenetv2") else "bilinear", *IMAGENET)


FAMILIES = (
    Family(
        names="mobilenet_v2, mobilenetv2_{035,050,075,100,110d,120d,140}",
        named=_named,
        config=MobileNetV2Config,
        backbone=_backbone,
        example=lambda config: picture(64, config.num_channels),
        tables=_tables,
        usual=_usual,
        architecture="MobileNetV2ForImageClassification",
        head=lambda config, classes: heads.linear(classes, dropout=config.classifier_dropout_prob or 0.0),
        torchvision=("mobilenet_v2",),
        blocks=lambda config: sum(repeats(config.depth_coefficient)),
    ),
)
