"""ResNet v1.5."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from jtl.backbones.config import Config, Depths, DropRate, Whole, Widths, read
from jtl.backbones.family import Family, changed, picture
from jtl.backbones.resnet import names as maps
from jtl.backbones.resnet.network import DEPTHS, PLAIN, resnet
from jtl.model import Model
from jtl.preprocess.image import IMAGENET, Preprocessing
from jtl.weights.mapping.rules import Rule


class BlocksConfig(Config):
    """The entries that ResNets have in common."""

    num_channels: Whole = 3
    embedding_size: Whole = 64
    depths: Depths = (3, 4, 6, 3)
    layer_type: Literal["basic", "bottleneck"] = "bottleneck"
    drop_path_rate: DropRate | None = None

    @property
    def deep(self) -> bool:
        """Whether its blocks are bottlenecks."""
        return self.layer_type == "bottleneck"


class ResNetConfig(BlocksConfig, model_type="resnet"):
    """The config of a ResNet."""

    hidden_sizes: Widths = (256, 512, 1024, 2048)
    hidden_act: Literal["relu"] = "relu"
    downsample_in_first_stage: Literal[False] = False
    downsample_in_bottleneck: Literal[False] = False

    def _check(self) -> None:
        widths = _widths(self.embedding_size, len(self.depths), self.layer_type)
        if list(self.hidden_sizes) != widths:
            given = str(list(self.hidden_sizes))[:120]
            raise ValueError(f"resnet with hidden_sizes={given} is not read, only with {widths}")


def _widths(first: int, stages: int, layer_type: str) -> list[int]:
    return [first * 2**i * (4 if layer_type == "bottleneck" else 1) for i in range(stages)]


def _named(name: str, changes: Mapping[str, Any]) -> dict[str, Any] | None:
    found = re.fullmatch(r"resnet(18|26|34|50|101|152)", name)
    if not found:
        return None
    config = of_depth(int(found[1]), changes)
    return {
        "model_type": "resnet",
        **config,
        "hidden_sizes": _widths(64, len(config["depths"]), config["layer_type"]),
    }


def of_depth(depth: int, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Returns `layer_type` and `depths`, with timm's `model_args` applied."""
    config = {"layer_type": "basic" if depth in PLAIN else "bottleneck", "depths": DEPTHS[depth]}
    words = {"layers": "depths", "in_chans": "num_channels", "drop_path_rate": "drop_path_rate"}
    config = changed(config, changes, words)
    return {**config, "depths": read(Depths, "layers", config["depths"])}


def _tables(config: ResNetConfig) -> dict[str, Sequence[Rule]]:
    del config
    return {"transformers": maps.transformers(), "torchvision": maps.torchvision(), "timm": maps.torchvision()}


def _backbone(config: ResNetConfig) -> Model:
    drop_path = config.drop_path_rate or 0.0
    return resnet(config.depths, bottleneck=config.deep, width=config.embedding_size, drop_path=drop_path)


def _usual(name: str, config: ResNetConfig) -> Preprocessing:
    del config
    # The networks that only timm has were trained with bicubic interpolation.
    return Preprocessing(256, 224, "bicubic" if name == "resnet26" else "bilinear", *IMAGENET)


FAMILIES = (
    Family(
        config=ResNetConfig,
        names="resnet18, resnet26, resnet34, resnet50, resnet101, resnet152",
        named=_named,
        backbone=_backbone,
        example=lambda config: picture(64, config.num_channels),
        tables=_tables,
        usual=_usual,
        architecture="ResNetForImageClassification",
        depth=("depths", "hidden_sizes"),
    ),
)
