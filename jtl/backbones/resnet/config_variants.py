"""ResNeXt, wide and SE ResNets, and those with other stems and shortcuts, from torchvision's and timm's files."""

from collections.abc import Mapping, Sequence
from typing import Any

from jtl.backbones.config import Whole
from jtl.backbones.family import Family, picture
from jtl.backbones.resnet import names as maps
from jtl.backbones.resnet.config import BlocksConfig, of_depth
from jtl.backbones.resnet.network import resnet
from jtl.model import Model
from jtl.preprocess.image import IMAGENET, Preprocessing
from jtl.weights.mapping.rules import Rule

_D = {"stem_width": 32, "avg_down": True}
_SIZES: dict[str, tuple[int, dict[str, Any]]] = {
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


class ResNetVariantConfig(BlocksConfig, model_type="resnet_variant"):
    """The config of a variant, with jtl's own entry names."""

    groups: Whole = 1
    width_per_group: Whole = 64
    stem_width: Whole | None = None
    stem_tiered: bool = False
    avg_down: bool = False
    squeeze: bool = False


def _named(name: str, changes: Mapping[str, Any]) -> dict[str, Any] | None:
    if name not in _SIZES:
        return None
    depth, measures = _SIZES[name]
    return {"model_type": "resnet_variant", **measures, **of_depth(depth, changes)}


def _backbone(config: ResNetVariantConfig) -> Model:
    return resnet(
        config.depths,
        stem="imagenet" if config.stem_width is None else "tiered" if config.stem_tiered else "deep",
        stem_width=config.stem_width,
        bottleneck=config.deep,
        width=config.embedding_size,
        groups=config.groups,
        width_per_group=config.width_per_group,
        avg_down=config.avg_down,
        squeeze=config.squeeze,
        drop_path=config.drop_path_rate or 0.0,
    )


def _tables(config: ResNetVariantConfig) -> dict[str, Sequence[Rule]]:
    own = {"deep_stem": config.stem_width is not None, "avg_down": config.avg_down, "squeeze": config.squeeze}
    rules = maps.torchvision(**own)
    return {"timm": rules} if any(own.values()) else {"torchvision": rules, "timm": rules}


def _usual(name: str, config: ResNetVariantConfig) -> Preprocessing:
    del config
    # The networks that only timm has were trained with bicubic interpolation.
    return Preprocessing(256, 224, "bicubic" if name.startswith(("resnet", "seres")) else "bilinear", *IMAGENET)


FAMILIES = (
    Family(
        names=", ".join(_SIZES),
        named=_named,
        config=ResNetVariantConfig,
        backbone=_backbone,
        example=lambda config: picture(64, config.num_channels),
        tables=_tables,
        usual=_usual,
        depth=("depths",),
    ),
)
