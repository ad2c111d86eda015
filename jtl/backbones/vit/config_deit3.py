"""DeiT-III."""

from collections.abc import Mapping
from typing import Any

from jtl import backbones
from jtl.backbones.family import Config, Family, picture, real
from jtl.backbones.vit import config as vit
from jtl.backbones.vit import names_deit3 as maps

_PATTERN = r"deit3_(small|medium|base|large|huge)_patch(\d+)_(\d+)"
_WORDS = {**vit.WORDS, "init_values": "layerscale_value"}


def _named(name: str, changes: Mapping[str, Any]) -> Config | None:
    config = vit.named("deit3", _PATTERN, name, changes, _WORDS)
    return None if config is None else {"layerscale_value": 1e-6, **config}


def _complete(config: Config, naming: str) -> Config:
    config = vit.complete({"layerscale_value": 1e-6, **config}, naming)
    real(config, "layerscale_value", 1e6)
    return config


DEIT3 = Family(
    names="deit3_{small,base,large}_patch16_{224,384}, deit3_medium_patch16_224, deit3_huge_patch14_224",
    named=_named,
    complete=_complete,
    backbone=lambda config: backbones.deit3(**vit.measures(config), layer_scale=config["layerscale_value"]),
    example=lambda config: picture(config["image_size"], config["num_channels"]),
    tables=lambda config: {"timm": maps.timm()},
    usual=vit.usual,
    architecture=None,
    depth=("num_hidden_layers",),
)
