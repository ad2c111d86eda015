"""ResNeXt, wide ResNets, and ResNets with other stems and shortcuts, from torchvision's and timm's files."""

from collections.abc import Mapping, Sequence
from typing import Any

from jtl import backbones
from jtl.model import Model
from jtl.weights.families.base import Config, Family, choice, picture, whole, wholes
from jtl.weights.families.resnet import deep, of_depth
from jtl.weights.maps import resnet as maps
from jtl.weights.names import Rule
from jtl.weights.preprocessing import IMAGENET, Preprocessing

_SIZES: dict[str, tuple[int, Config]] = {
    **{
        f"resnext{depth}_{groups}x{width}d": (depth, {"groups": groups, "width_per_group": width})
        for depth, groups, width in ((50, 32, 4), (101, 32, 4), (101, 32, 8), (101, 32, 16), (101, 64, 4))
    },
    **{f"wide_resnet{depth}_2": (depth, {"width_per_group": 128}) for depth in (50, 101)},
    **{f"resnet{depth}d": (depth, {"stem_width": 32, "avg_down": True}) for depth in (18, 26, 34, 50, 101, 152, 200)},
    **{f"resnet{depth}c": (depth, {"stem_width": 32}) for depth in (50, 101, 152)},
    **{f"resnet{depth}s": (depth, {"stem_width": 64}) for depth in (50, 101, 152)},
}


def _named(name: str, changes: Mapping[str, Any]) -> Config | None:
    if name not in _SIZES:
        return None
    depth, measures = _SIZES[name]
    return {"model_type": "resnet_variant", **measures, **of_depth(depth, changes)}


def _complete(config: Config, naming: str) -> Config:
    del naming
    usual = {
        "num_channels": 3,
        "embedding_size": 64,
        "depths": [3, 4, 6, 3],
        "layer_type": "bottleneck",
        "groups": 1,
        "width_per_group": 64,
        "stem_width": None,
        "avg_down": False,
    }
    config = {**usual, **config}
    whole(config, "num_channels", "embedding_size", "groups", "width_per_group")
    wholes(config, "depths", most=256, longest=8)
    choice(config, "layer_type", ("basic", "bottleneck"))
    choice(config, "avg_down", (False, True))
    if config["stem_width"] is not None:
        whole(config, "stem_width")
    return config


def _backbone(config: Config) -> Model:
    return backbones.resnet(
        config["depths"],
        stem="imagenet" if config["stem_width"] is None else "deep",
        stem_width=config["stem_width"],
        bottleneck=deep(config),
        width=config["embedding_size"],
        groups=config["groups"],
        width_per_group=config["width_per_group"],
        avg_down=config["avg_down"],
    )


def _tables(config: Config) -> dict[str, Sequence[Rule]]:
    deep_stem, avg_down = config["stem_width"] is not None, config["avg_down"]
    rules = maps.torchvision(config["depths"], 3 if deep(config) else 2, deep_stem=deep_stem, avg_down=avg_down)
    return {"timm": rules} if deep_stem or avg_down else {"torchvision": rules, "timm": rules}


def _usual(name: str, config: Config) -> Preprocessing:
    del config
    # What timm alone has it trained with bicubic interpolation.
    return Preprocessing(256, 224, "bicubic" if name.startswith("resnet") else "bilinear", *IMAGENET)


RESNET_VARIANT = Family(
    names=", ".join(_SIZES),
    named=_named,
    complete=_complete,
    backbone=_backbone,
    example=lambda config: picture(64, config["num_channels"]),
    tables=_tables,
    usual=_usual,
    architecture=None,
    depth=("depths",),
)
