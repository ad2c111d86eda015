"""EfficientNetV2, from torchvision's and timm's files."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from jtl.backbones.config import Config, DropRate, Range, Rate, Whole
from jtl.backbones.efficientnet_v2 import names as maps
from jtl.backbones.efficientnet_v2.network import SIZES, EfficientNetV2Size, V2Stage, efficientnet_v2
from jtl.backbones.family import Family, changed, picture
from jtl.model import Model
from jtl.preprocess.image import HALF, IMAGENET, Preprocessing
from jtl.weights.mapping.rules import Rule

TORCHVISION = ("efficientnet_v2_s", "efficientnet_v2_m", "efficientnet_v2_l")
_LISTS = ("block_types", "expand_ratios", "out_channels", "num_block_repeats", "strides")
# By timm's names: side of the images, and its ratio to the size that they are resized to before the crop.
_IMAGES = {
    "tf_s": (300, 1.0),
    "tf_m": (384, 1.0),
    "tf_l": (384, 1.0),
    "tf_xl": (384, 1.0),
    "tf_b0": (192, 0.875),
    "tf_b1": (192, 0.882),
    "tf_b2": (208, 0.89),
    "tf_b3": (240, 0.904),
    "rw_t": (224, 1.0),
    "rw_s": (288, 1.0),
    "rw_m": (320, 1.0),
}


_Stages = Range(1, 16)
_Counts = Annotated[tuple[Annotated[int, Range(1, 64)], ...], _Stages]
_SMALL = SIZES["s"]


class EfficientNetV2Config(Config, model_type="efficientnet_v2"):
    """The config of an EfficientNetV2, with transformers' entry names for EfficientNet."""

    num_channels: Whole = 3
    stem_channels: Whole = _SMALL.stem
    block_types: Annotated[tuple[Literal["conv", "fused", "inverted"], ...], _Stages] = tuple(
        stage.kind for stage in _SMALL.stages
    )
    expand_ratios: _Counts = tuple(stage.expansion for stage in _SMALL.stages)
    out_channels: Annotated[tuple[Whole, ...], _Stages] = tuple(stage.channels for stage in _SMALL.stages)
    num_block_repeats: _Counts = tuple(stage.repeats for stage in _SMALL.stages)
    strides: Annotated[tuple[Annotated[int, Range(1, 2)], ...], _Stages] = tuple(one.stride for one in _SMALL.stages)
    hidden_dim: Whole = _SMALL.top
    padding: Literal["torch", "same"] = "torch"
    batch_norm_eps: Rate = 1e-3
    drop_connect_rate: DropRate = 0.2

    def _check(self) -> None:
        self._as_many(*_LISTS)

    @property
    def stages(self) -> tuple[V2Stage, ...]:
        """The stages of the network."""
        return tuple(V2Stage(*stage) for stage in zip(*(getattr(self, name) for name in _LISTS), strict=True))


def _named(name: str, changes: Mapping[str, Any]) -> dict[str, Any] | None:
    found = re.fullmatch(r"(tf_efficientnetv2_(?!rw_)|efficientnetv2_(?=rw_)|efficientnet_v2_(?=[sml]$))(\w+)", name)
    if not found or found[2] not in SIZES:
        return None
    size = SIZES[found[2]]
    config = {"model_type": "efficientnet_v2", "stem_channels": size.stem, "hidden_dim": size.top}
    config |= dict(zip(_LISTS, map(list, zip(*size.stages, strict=True)), strict=True))
    config["padding"] = "same" if name.startswith("tf_") else "torch"
    config["batch_norm_eps"] = 1e-5 if found[2].startswith("rw_") else 1e-3
    return changed(config, changes, {"in_chans": "num_channels", "drop_path_rate": "drop_connect_rate"})


def _backbone(config: EfficientNetV2Config) -> Model:
    return efficientnet_v2(
        EfficientNetV2Size(config.stem_channels, config.stages, config.hidden_dim),
        padding=config.padding,
        eps=config.batch_norm_eps,
        drop_path=config.drop_connect_rate,
    )


def _tables(config: EfficientNetV2Config) -> dict[str, Sequence[Rule]]:
    # Padding and ε tell which library a network is from, because neither can build the other's by name.
    if (config.padding, config.batch_norm_eps) == ("torch", 1e-3):
        return {"torchvision": maps.torchvision(config.stages)}
    return {"timm": maps.timm(config.stages)}


def _usual(name: str, config: EfficientNetV2Config) -> Preprocessing:
    del config
    size = name.rpartition("_")[2]
    if name in TORCHVISION:
        side = 384 if size == "s" else 480
        return Preprocessing(side, side, *(("bicubic", *HALF) if size == "l" else ("bilinear", *IMAGENET)))
    side, share = _IMAGES[name.replace("efficientnetv2_", "")]
    if size in ("m", "l", "xl") and name.startswith("tf_"):
        return Preprocessing((side, side), None, "bicubic", *HALF)
    return Preprocessing(math.floor(side / share), side, "bicubic", *(HALF if name.endswith("v2_s") else IMAGENET))


FAMILIES = (
    Family(
        names="efficientnet_v2_{s,m,l}, tf_efficientnetv2_{s,m,l,xl,b0,b1,b2,b3}, efficientnetv2_rw_{t,s,m}",
        named=_named,
        config=EfficientNetV2Config,
        backbone=_backbone,
        example=lambda config: picture(64, config.num_channels),
        tables=_tables,
        usual=_usual,
        torchvision=TORCHVISION,
        blocks=lambda config: sum(config.num_block_repeats),
    ),
)
