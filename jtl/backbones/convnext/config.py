"""ConvNeXt."""

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from jtl.backbones.config import Config, Depths, DropRate, Factor, Range, Rate, Whole, Widths
from jtl.backbones.convnext import names as maps
from jtl.backbones.convnext.network import convnext
from jtl.backbones.family import Family, changed, picture
from jtl.model import Model
from jtl.preprocess.image import IMAGENET, Preprocessing
from jtl.weights.mapping.rules import Rule

_SIZES = {
    "atto": ([2, 2, 6, 2], 40),
    "femto": ([2, 2, 6, 2], 48),
    "pico": ([2, 2, 6, 2], 64),
    "nano": ([2, 2, 8, 2], 80),
    "tiny": ([3, 3, 9, 3], 96),
    "small": ([3, 3, 27, 3], 96),
    "base": ([3, 3, 27, 3], 128),
    "large": ([3, 3, 27, 3], 192),
    "xlarge": ([3, 3, 27, 3], 256),
}
_SMALL = ("atto", "femto", "pico", "nano")  # timm's own sizes, whose dense layers are 1x1 convolutions in its files
# timm's variants: channels in an overlapping stem, a normalisation before the mean, a layer before the classifier.
_OTHERS = {
    **{f"{size}_ols": {"stem_hidden": width} for size, width in zip(_SMALL, (24, 24, 32, 80), strict=True)},
    "tiny_hnf": {"norm_first": True, "conv_mlp": True},
    "large_mlp": {"head_hidden_size": 1536},
}
_WORDS = {"depths": "depths", "dims": "hidden_sizes", "in_chans": "num_channels", "drop_path_rate": "drop_path_rate"}


class ConvNextConfig(Config, model_type="convnext"):
    """The config of a ConvNeXt; the last four entries are jtl's own, for variants that only timm has."""

    num_channels: Whole = 3
    patch_size: Annotated[int, Range(1, 64)] = 4
    hidden_sizes: Widths = (96, 192, 384, 768)
    depths: Depths = (3, 3, 9, 3)
    hidden_act: Literal["gelu"] = "gelu"
    layer_norm_eps: Rate = 1e-6
    layer_scale_init_value: Factor = 1e-6
    drop_path_rate: DropRate = 0.0
    conv_mlp: bool = False
    norm_first: bool = False
    stem_hidden: Whole | None = None
    head_hidden_size: Whole | None = None

    @classmethod
    def _fill(cls, given: Mapping[str, Any], naming: str) -> Mapping[str, Any]:
        return {"layer_norm_eps": 1e-12, **given} if naming == "transformers" else given

    def _check(self) -> None:
        self._as_many("depths", "hidden_sizes")


def _named(name: str, changes: Mapping[str, Any]) -> dict[str, Any] | None:
    found = re.fullmatch(r"convnext_(\w+)", name)
    if not found or (found[1] not in _SIZES and found[1] not in _OTHERS):
        return None
    size = found[1].partition("_")[0]
    depths, width = _SIZES[size]
    config = {"model_type": "convnext", "depths": depths, "hidden_sizes": [width * 2**i for i in range(4)]}
    config |= {"conv_mlp": True} if size in _SMALL else {}
    return changed(config | _OTHERS.get(found[1], {}), changes, _WORDS)


def _backbone(config: ConvNextConfig) -> Model:
    return convnext(
        list(zip(config.depths, config.hidden_sizes, strict=True)),
        patch=config.patch_size,
        eps=config.layer_norm_eps,
        layer_scale=config.layer_scale_init_value or None,
        drop_path=config.drop_path_rate,
        overlap=config.stem_hidden,
        norm_first=config.norm_first,
        hidden=config.head_hidden_size,
    )


def _tables(config: ConvNextConfig) -> dict[str, Sequence[Rule]]:
    conv_mlp = config.conv_mlp
    own = {
        "overlap": config.stem_hidden is not None,
        "norm_first": config.norm_first,
        "hidden": config.head_hidden_size is not None,
    }
    timm = maps.timm(conv_mlp, **own)
    if any(own.values()):  # only timm has such variants
        return {"timm": timm}
    tables: dict[str, Sequence[Rule]] = {"transformers": maps.transformers(), "timm": timm}
    return tables if conv_mlp else {**tables, "torchvision": maps.torchvision(len(config.depths))}


def _usual(name: str, config: ConvNextConfig) -> Preprocessing:
    del config
    return Preprocessing(235 if name == "convnext_nano" else 256, 224, "bicubic", *IMAGENET)


FAMILIES = (
    Family(
        names="convnext_{atto,femto,pico,nano}{,_ols}, convnext_{tiny,tiny_hnf,small,base,large,large_mlp,xlarge}",
        named=_named,
        config=ConvNextConfig,
        backbone=_backbone,
        example=lambda config: picture(config.patch_size << len(config.depths), config.num_channels),
        tables=_tables,
        usual=_usual,
        architecture="ConvNextForImageClassification",
        depth=("depths", "hidden_sizes", "num_stages"),
    ),
)
