"""MobileNetV3, from torchvision's and timm's files."""

import re
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any, Literal, get_args

from jtl.backbones.config import Config, DropRate, Factor, Rate, Whole, read
from jtl.backbones.family import Family, changed, picture
from jtl.backbones.mobilenet_v3 import names as maps
from jtl.backbones.mobilenet_v3.network import ROWS, mobilenet_v3
from jtl.model import Model
from jtl.nn.conv_blocks import rounded
from jtl.preprocess.image import HALF, IMAGENET, Preprocessing
from jtl.weights.mapping.inverted_residual import Parts
from jtl.weights.mapping.rules import Rule

TORCHVISION = ("mobilenet_v3_large", "mobilenet_v3_small")
WORDS = {"in_chans": "num_channels", "drop_path_rate": "drop_path_rate"}
HIDDEN = {"large": 1280, "small": 1024}


_Scaling = Literal["torchvision", "timm"]


class MobileNetV3Config(Config, model_type="mobilenet_v3"):
    """The config of a MobileNetV3, with jtl's own entry names; `scaling` is None if the library is unknown."""

    num_channels: Whole = 3
    size: Literal["large", "small"] = "large"
    depth_multiplier: Factor = 1.0
    tf_padding: bool = False
    layer_norm_eps: Rate = 1e-3
    drop_path_rate: DropRate | None = None
    scaling: _Scaling | None = None
    intermediate_size: Whole = HIDDEN["large"]

    @classmethod
    def _fill(cls, given: Mapping[str, Any], naming: str) -> Mapping[str, Any]:
        given = {"scaling": naming, **given} if naming in get_args(_Scaling) else given
        hidden = HIDDEN["small" if given.get("size") == "small" else "large"]
        if given.get("scaling") == "timm":
            return {"layer_norm_eps": 1e-5, "intermediate_size": hidden, **given}
        factor = read(Factor, "depth_multiplier", given.get("depth_multiplier", 1.0))
        return {"intermediate_size": rounded(hidden * factor), **given}


def _named(name: str, changes: Mapping[str, Any]) -> dict[str, Any] | None:
    if name in TORCHVISION:
        config = {"model_type": "mobilenet_v3", "size": name.removeprefix("mobilenet_v3_")}
        return changed(config, changes, {**WORDS, "width_mult": "depth_multiplier"})
    found = re.fullmatch(r"(tf_|)mobilenetv3_(large|small)_(050|075|100)", name)
    if not found or (found[3] == "050" and found[1] + found[2] != "small"):
        return None
    config = {"model_type": "mobilenet_v3", "size": found[2], "depth_multiplier": int(found[3]) / 100}
    config |= {"scaling": "timm", "tf_padding": bool(found[1]), "layer_norm_eps": 1e-3 if found[1] else 1e-5}
    return changed(config, changes, WORDS)


def _backbone(config: MobileNetV3Config) -> Model:
    return mobilenet_v3(
        config.size,
        config.depth_multiplier,
        hidden=config.intermediate_size,
        scaling=config.scaling or "torchvision",
        same_padding=config.tf_padding,
        eps=config.layer_norm_eps,
        drop_path=config.drop_path_rate or 0.0,
    )


def _tables(config: MobileNetV3Config) -> dict[str, Sequence[Rule]]:
    # At any width only the first block does not expand. timm numbers blocks within stages, each of one number of
    # channels.
    rows = [(row.channels, Parts(i > 0, row.squeeze)) for i, row in enumerate(ROWS[config.size])]
    stages = [[parts for _, parts in stage] for _, stage in groupby(rows, lambda row: row[0])]
    found: dict[str, Sequence[Rule]] = {
        "torchvision": maps.torchvision([parts for _, parts in rows]),
        "timm": maps.timm(stages),
    }
    # The two libraries differ in the effect of `width` and in ε, so a network of one is not a network of the other.
    return {name: table for name, table in found.items() if config.scaling in (None, name)}


def _usual(name: str, config: MobileNetV3Config) -> Preprocessing:
    del config
    if name.startswith("mobilenetv3"):
        return Preprocessing(256, 224, "bicubic", *IMAGENET)
    return Preprocessing(256, 224, "bilinear", *(HALF if name.startswith("tf_") else IMAGENET))


FAMILIES = (
    Family(
        names="mobilenet_v3_{large,small}, mobilenetv3_large_{075,100}, mobilenetv3_small_{050,075,100}, "
        "tf_mobilenetv3_{large,small}_{075,100}",
        named=_named,
        config=MobileNetV3Config,
        backbone=_backbone,
        example=lambda config: picture(64, config.num_channels),
        tables=_tables,
        usual=_usual,
        torchvision=TORCHVISION,
        blocks=lambda config: len(ROWS[config.size]),
    ),
)
