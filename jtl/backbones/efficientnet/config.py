"""EfficientNet."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from jtl import heads
from jtl.backbones.config import Config, DropRate, Factor, Range, Rate, Whole, read
from jtl.backbones.efficientnet import names as maps
from jtl.backbones.efficientnet.network import SCALES, STAGES, MBStage, efficientnet
from jtl.backbones.family import Family, changed, picture
from jtl.model import Model
from jtl.nn.conv_blocks import rounded
from jtl.preprocess.image import IMAGENET, Preprocessing
from jtl.weights.mapping.rules import Rule

_LISTS = ("in_channels", "out_channels", "kernel_sizes", "strides", "num_block_repeats", "expand_ratios")
_SIDES = {"b0": 224, "b1": 240, "b2": 260, "b3": 300, "b4": 380, "b5": 456, "b6": 528, "b7": 600}


_Stages = Range(1, 16)
_Counts = Annotated[tuple[Annotated[int, Range(1, 64)], ...], _Stages]


class EfficientNetConfig(Config, model_type="efficientnet"):
    """The config of an EfficientNet.

    Two of its entries are jtl's own. `padding` is None for transformers' padding, given by `depthwise_padding`;
    `batch_norm_eps` is None if it is unknown which library the weights are from.
    """

    num_channels: Whole = 3
    width_coefficient: Factor = 2.0
    depth_coefficient: Factor = 3.1
    depth_divisor: Literal[8] = 8
    in_channels: Annotated[tuple[Whole, ...], _Stages] = (32, *(stage.channels for stage in STAGES[:-1]))
    out_channels: Annotated[tuple[Whole, ...], _Stages] = tuple(stage.channels for stage in STAGES)
    kernel_sizes: Annotated[tuple[Annotated[int, Range(1, 31)], ...], _Stages] = tuple(one.kernel for one in STAGES)
    strides: Annotated[tuple[Annotated[int, Range(1, 2)], ...], _Stages] = tuple(stage.stride for stage in STAGES)
    num_block_repeats: _Counts = tuple(stage.repeats for stage in STAGES)
    expand_ratios: _Counts = tuple(stage.expansion for stage in STAGES)
    depthwise_padding: Annotated[tuple[Annotated[int, Range(0, 1 << 12)], ...], Range(0, 1 << 12)] = ()
    squeeze_expansion_ratio: Factor = 0.25
    hidden_act: Literal["swish"] = "swish"
    hidden_dim: Whole = 2560
    pooling_type: Literal["mean"] = "mean"
    drop_connect_rate: DropRate = 0.2
    dropout_rate: DropRate | None = None
    batch_norm_eps: Rate | None = None
    padding: Literal["torch", "same"] | None = None
    image_size: Whole = 600

    @classmethod
    def _fill(cls, given: Mapping[str, Any], naming: str) -> Mapping[str, Any]:
        if naming == "transformers":
            return {"batch_norm_eps": 1e-3, **given}
        if not naming:
            return given
        # The weights that torchvision trained itself have 1e-5; those from b5 on were converted.
        width = read(Factor, "width_coefficient", given.get("width_coefficient", cls.width_coefficient))
        converted = naming == "torchvision" and width >= 1.6
        return {"batch_norm_eps": 1e-3 if converted else 1e-5, "padding": "torch", **given}

    def _check(self) -> None:
        self._as_many(*_LISTS)
        inputs, top = (32, *self.out_channels[:-1]), rounded(1280 * self.width_coefficient)
        for name, wanted in (("in_channels", inputs), ("hidden_dim", top)):
            if getattr(self, name) != wanted:
                given = str(getattr(self, name))[:120]
                raise ValueError(f"efficientnet with {name}={given} is not read, only with {wanted}")

    @property
    def repeats(self) -> tuple[int, ...]:
        """The number of blocks of each stage."""
        return tuple(math.ceil(count * self.depth_coefficient) for count in self.num_block_repeats)


def _named(name: str, changes: Mapping[str, Any]) -> dict[str, Any] | None:
    found = re.fullmatch(r"(tf_|)efficientnet_(b[0-7])", name)
    if not found:
        return None
    width, depth = SCALES[found[2]]
    config = {"model_type": "efficientnet", "width_coefficient": width, "depth_coefficient": depth}
    config |= {"hidden_dim": rounded(1280 * width), "image_size": _SIDES[found[2]]}
    if found[1]:
        config |= {"padding": "same", "batch_norm_eps": 1e-3}
    return changed(config, changes, {"in_chans": "num_channels", "drop_path_rate": "drop_connect_rate"})


def _backbone(config: EfficientNetConfig) -> Model:
    lists = config.expand_ratios, config.out_channels, config.num_block_repeats, config.strides, config.kernel_sizes
    return efficientnet(
        (config.width_coefficient, config.depth_coefficient),
        stages=[MBStage(*stage) for stage in zip(*lists, strict=True)],
        padding=config.padding or config.depthwise_padding,
        squeeze=config.squeeze_expansion_ratio,
        eps=1e-3 if config.batch_norm_eps is None else config.batch_norm_eps,
        drop_path=config.drop_connect_rate,
    )


def _tables(config: EfficientNetConfig) -> dict[str, Sequence[Rule]]:
    stages = [(count, ratio > 1) for count, ratio in zip(config.repeats, config.expand_ratios, strict=True)]
    # Each library pads in its own way, so a network of one cannot be written for another.
    if config.padding is None and config.batch_norm_eps is not None:
        return {"transformers": maps.transformers()}
    tables: dict[str, Sequence[Rule]] = {"timm": maps.timm(stages)}
    if config.padding != "same":
        tables["torchvision"] = maps.torchvision(stages)
    return tables if config.padding else {"transformers": maps.transformers(), **tables}


def _usual(name: str, config: EfficientNetConfig) -> Preprocessing:
    del name
    side = config.image_size
    return Preprocessing(side + 32, side, "bicubic", *IMAGENET)


FAMILIES = (
    Family(
        names="{,tf_}efficientnet_{b0,b1,b2,b3,b4,b5,b6,b7}",
        named=_named,
        config=EfficientNetConfig,
        backbone=_backbone,
        example=lambda config: picture(64, config.num_channels),
        tables=_tables,
        usual=_usual,
        architecture="EfficientNetForImageClassification",
        head=lambda config, classes: heads.linear(classes, dropout=config.dropout_rate or 0.0),
        blocks=lambda config: sum(config.repeats),
    ),
)
