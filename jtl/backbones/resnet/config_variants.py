"""ResNeXt, wide and SE ResNets, and those with other stems and shortcuts, from torchvision's and timm's files."""

from collections.abc import Mapping, Sequence
from typing import Any

from jtl import backbones
from jtl.backbones.family import Family, Raw, choice, loose, picture, whole, wholes
from jtl.backbones.resnet import names as maps
from jtl.backbones.resnet.config import deep, of_depth
from jtl.model import Model
from jtl.preprocess.image import IMAGENET, Preprocessing
from jtl.weights.mapping.rules import Rule

_D = {"stem_width": 32, "avg_down": True}
_SIZES: dict[str, tuple[int, Raw]] = {
    **{
        f"resnext{depth}_{groups}x{width}d": (depth, {"groups": groups, "width_per_group": width})
        for depth, groups, width in ((50, 32, 4), (101, 32, 4), (101, 32, 8), (101, 32, 16), (101, 64, 4))
    },
    **{f"wide_resnet{depth}_2": (depth, {"width_per_group": 128}) for depth in (50, 101)},
    **{f"resnet{depth}d": (depth, _D) for depth in (18, 26, 34, 50, 101, 152, 200)},
    **{f"resnet{depth}c": (depth, {"stem_width": 32}) for depth in (50, 101, 152)},
    **{f"resnet{depth}s": (depth, {"stem_width": 64}) for depth in (50, 101, 152)},
    **{f"resnet{depth}t": (depth, {**_D, "stem_tiered": True}) for depth in (10, 14, 26, 50)},
    **{f"seresnet{depth}": (depth, {"squeeze": True}) for depth in (18, 34, 50, 101, 152)},
    **{
        f"seresnext{depth}{letter}_{groups}x{width}d": (
            depth,
            {"groups": groups, "width_per_group": width, **stem, "squeeze": True},
        )
        for depth, letter, groups, width, stem in (
            (26, "d", 32, 4, _D),
            (26, "t", 32, 4, {**_D, "stem_tiered": True}),
            (50, "", 32, 4, {}),
            (101, "", 32, 4, {}),
            (101, "", 32, 8, {}),
            (101, "", 64, 4, {}),
            (101, "d", 32, 8, _D),
        )
    },
    "seresnet152d": (152, {**_D, "squeeze": True}),
}


def _named(name: str, changes: Mapping[str, Any]) -> Raw | None:
    if name not in _SIZES:
        return None
    depth, measures = _SIZES[name]
    return {"model_type": "resnet_variant", **measures, **of_depth(depth, changes)}


def _complete(config: Raw, naming: str) -> Raw:
    del naming
    usual = {
        "num_channels": 3,
        "embedding_size": 64,
        "depths": [3, 4, 6, 3],
        "layer_type": "bottleneck",
        "groups": 1,
        "width_per_group": 64,
        "stem_width": None,
        "stem_tiered": False,
        "avg_down": False,
        "squeeze": False,
    }
    config = {**usual, **config}
    whole(config, "num_channels", "embedding_size", "groups", "width_per_group")
    wholes(config, "depths", most=256, longest=8)
    choice(config, "layer_type", ("basic", "bottleneck"))
    for name in ("stem_tiered", "avg_down", "squeeze"):
        choice(config, name, (False, True))
    if config["stem_width"] is not None:
        whole(config, "stem_width")
    return config


def _backbone(config: Raw) -> Model:
    return backbones.resnet(
        config["depths"],
        stem="imagenet" if config["stem_width"] is None else "tiered" if config["stem_tiered"] else "deep",
        stem_width=config["stem_width"],
        bottleneck=deep(config),
        width=config["embedding_size"],
        groups=config["groups"],
        width_per_group=config["width_per_group"],
        avg_down=config["avg_down"],
        squeeze=config["squeeze"],
    )


def _tables(config: Raw) -> dict[str, Sequence[Rule]]:
    own = {"deep_stem": config["stem_width"] is not None, "avg_down": config["avg_down"], "squeeze": config["squeeze"]}
    rules = maps.torchvision(config["depths"], 3 if deep(config) else 2, **own)
    return {"timm": rules} if any(own.values()) else {"torchvision": rules, "timm": rules}


def _usual(name: str, config: Raw) -> Preprocessing:
    del config
    # What timm alone has it trained with bicubic interpolation.
    return Preprocessing(256, 224, "bicubic" if name.startswith(("resnet", "seres")) else "bilinear", *IMAGENET)


RESNET_VARIANT = Family(
    names=", ".join(_SIZES),
    named=_named,
    config=loose("resnet_variant", _complete),
    backbone=_backbone,
    example=lambda config: picture(64, config["num_channels"]),
    tables=_tables,
    usual=_usual,
    architecture=None,
    depth=("depths",),
)
FAMILIES = (RESNET_VARIANT,)
