"""MobileNetV3, from torchvision's files."""

from collections.abc import Mapping, Sequence
from typing import Any

from jtl import backbones
from jtl.backbones.blocks import rounded
from jtl.backbones.mobilenet_v3 import ROWS
from jtl.model import Model
from jtl.weights.errors import show
from jtl.weights.families.base import Config, Family, changed, picture, real, whole
from jtl.weights.maps import mobilenet_v3 as maps
from jtl.weights.maps.inverted import Parts
from jtl.weights.names import Rule
from jtl.weights.preprocessing import IMAGENET, Preprocessing


def _named(name: str, changes: Mapping[str, Any]) -> Config | None:
    if name not in ("mobilenet_v3_large", "mobilenet_v3_small"):
        return None
    config = {"model_type": "mobilenet_v3", "size": name.removeprefix("mobilenet_v3_")}
    return changed(config, changes, {"width_mult": "depth_multiplier"})


def _complete(config: Config, naming: str) -> Config:
    del naming
    usual = {"num_channels": 3, "size": "large", "depth_multiplier": 1.0, "layer_norm_eps": 1e-3}
    config = {**usual, **config}
    if not isinstance(config["size"], str) or config["size"] not in ROWS:
        raise ValueError(f"size={show(str(config['size']))}: give one of {list(ROWS)}")
    whole(config, "num_channels")
    real(config, "depth_multiplier", 16)
    hidden = {"large": 1280, "small": 1024}[config["size"]]
    config = {"intermediate_size": rounded(hidden * config["depth_multiplier"]), **config}
    whole(config, "intermediate_size")
    real(config, "layer_norm_eps", 1.0)
    return config


def _backbone(config: Config) -> Model:
    return backbones.mobilenet_v3(
        config["size"],
        config["depth_multiplier"],
        hidden=config["intermediate_size"],
        eps=config["layer_norm_eps"],
    )


def _tables(config: Config) -> dict[str, Sequence[Rule]]:
    # Only the first block does not expand, at any width.
    rows = ROWS[config["size"]]
    return {"torchvision": maps.torchvision([Parts(i > 0, row.squeeze) for i, row in enumerate(rows)])}


MOBILENET_V3 = Family(
    names="mobilenet_v3_{large,small}",
    named=_named,
    complete=_complete,
    backbone=_backbone,
    example=lambda config: picture(64, config["num_channels"]),
    tables=_tables,
    usual=lambda name, config: Preprocessing(256, 224, "bilinear", *IMAGENET),
    architecture=None,
)
