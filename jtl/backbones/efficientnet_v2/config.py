"""EfficientNetV2, from torchvision's and timm's files."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from jtl import backbones
from jtl.backbones.efficientnet_v2 import names as maps
from jtl.backbones.efficientnet_v2.network import KINDS, SIZES, EfficientNetV2Size, V2Stage
from jtl.backbones.family import Family, Raw, changed, choice, loose, picture, real, whole, wholes
from jtl.model import Model
from jtl.preprocess.image import HALF, IMAGENET, Preprocessing
from jtl.weights.formats.errors import show
from jtl.weights.mapping.rules import Rule

TORCHVISION = ("efficientnet_v2_s", "efficientnet_v2_m", "efficientnet_v2_l")
_LISTS = ("block_types", "expand_ratios", "out_channels", "num_block_repeats", "strides")
# By timm's names: side of the images, and its share of what they are resized to.
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


def _named(name: str, changes: Mapping[str, Any]) -> Raw | None:
    found = re.fullmatch(r"(tf_efficientnetv2_(?!rw_)|efficientnetv2_(?=rw_)|efficientnet_v2_(?=[sml]$))(\w+)", name)
    if not found or found[2] not in SIZES:
        return None
    size = SIZES[found[2]]
    config = {"model_type": "efficientnet_v2", "stem_channels": size.stem, "hidden_dim": size.top}
    config |= dict(zip(_LISTS, map(list, zip(*size.stages, strict=True)), strict=True))
    config["padding"] = "same" if name.startswith("tf_") else "torch"
    config["batch_norm_eps"] = 1e-5 if found[2].startswith("rw_") else 1e-3
    return changed(config, changes, {"in_chans": "num_channels", "drop_path_rate": "drop_connect_rate"})


def _complete(config: Raw, naming: str) -> Raw:
    del naming
    small = _named("efficientnet_v2_s", {}) or {}
    config = {"num_channels": 3, "drop_connect_rate": 0.2, **small, **config}
    whole(config, "num_channels", "stem_channels", "hidden_dim")
    wholes(config, "out_channels", longest=16)
    wholes(config, "strides", most=2, longest=16)
    wholes(config, "num_block_repeats", "expand_ratios", most=64, longest=16)
    kinds = config["block_types"]
    if not isinstance(kinds, (list, tuple)) or not all(isinstance(kind, str) and kind in KINDS for kind in kinds):
        raise ValueError(f"block_types={show(str(kinds))}: give a list of {KINDS}")
    counts = [len(config[name]) for name in _LISTS]
    if len(set(counts)) != 1:
        raise ValueError(f"{', '.join(_LISTS)} are of {counts} stages: give as many")
    choice(config, "padding", ("torch", "same"))
    real(config, "batch_norm_eps", 1.0)
    real(config, "drop_connect_rate", 0.99)
    return config


def _stages(config: Raw) -> tuple[V2Stage, ...]:
    return tuple(V2Stage(*stage) for stage in zip(*(config[name] for name in _LISTS), strict=True))


def _backbone(config: Raw) -> Model:
    return backbones.efficientnet_v2(
        EfficientNetV2Size(config["stem_channels"], _stages(config), config["hidden_dim"]),
        padding=config["padding"],
        eps=config["batch_norm_eps"],
        drop_path=config["drop_connect_rate"],
    )


def _tables(config: Raw) -> dict[str, Sequence[Rule]]:
    # Padding and ε tell whose a network is, for neither library can make the other's by name.
    if (config["padding"], config["batch_norm_eps"]) == ("torch", 1e-3):
        return {"torchvision": maps.torchvision(_stages(config))}
    return {"timm": maps.timm(_stages(config))}


def _usual(name: str, config: Raw) -> Preprocessing:
    del config
    size = name.rpartition("_")[2]
    if name in TORCHVISION:
        side = 384 if size == "s" else 480
        return Preprocessing(side, side, *(("bicubic", *HALF) if size == "l" else ("bilinear", *IMAGENET)))
    side, share = _IMAGES[name.replace("efficientnetv2_", "")]
    if size in ("m", "l", "xl") and name.startswith("tf_"):
        return Preprocessing((side, side), None, "bicubic", *HALF)
    return Preprocessing(math.floor(side / share), side, "bicubic", *(HALF if name.endswith("v2_s") else IMAGENET))


EFFICIENTNET_V2 = Family(
    names="efficientnet_v2_{s,m,l}, tf_efficientnetv2_{s,m,l,xl,b0,b1,b2,b3}, efficientnetv2_rw_{t,s,m}",
    named=_named,
    config=loose("efficientnet_v2", _complete),
    backbone=_backbone,
    example=lambda config: picture(64, config["num_channels"]),
    tables=_tables,
    usual=_usual,
    architecture=None,
    torchvision=TORCHVISION,
)
FAMILIES = (EFFICIENTNET_V2,)
