"""Inception-v3, from files of torchvision and timm."""

from collections.abc import Mapping, Sequence
from typing import Any

from jtl import backbones
from jtl.backbones.family import Family, Raw, changed, loose, picture, real, whole, wholes
from jtl.backbones.inception_v3 import names as maps
from jtl.model import Model
from jtl.preprocess.image import HALF, IMAGENET, Preprocessing
from jtl.weights.formats.errors import show
from jtl.weights.mapping.rules import Rule

_WORDS = {"in_chans": "num_channels", "transform_input": "transform_input"}


def _named(name: str, changes: Mapping[str, Any]) -> Raw | None:
    return changed({"model_type": "inception_v3"}, changes, _WORDS) if name == "inception_v3" else None


def _complete(config: Raw, naming: str) -> Raw:
    del naming
    usual = {
        "num_channels": 3,
        "depth_multiplier": 1.0,
        "depths": [3, 5, 3],
        "layer_norm_eps": 1e-3,
        "transform_input": True,
    }
    config = {**usual, **config}
    whole(config, "num_channels")
    wholes(config, "depths", most=5, longest=3)
    real(config, "depth_multiplier", 16)
    real(config, "layer_norm_eps", 1.0)
    if type(config["transform_input"]) is not bool:
        raise ValueError(f"transform_input={show(config['transform_input'])}: give true or false")
    return config


def _backbone(config: Raw) -> Model:
    return backbones.inception_v3(config["depth_multiplier"], depths=config["depths"], eps=config["layer_norm_eps"])


def _tables(config: Raw) -> dict[str, Sequence[Rule]]:
    rules = maps.torchvision(config["depths"])
    return {"torchvision": rules, "timm": rules}


def _usual(name: str, config: Raw) -> Preprocessing:
    """For ImageNet; or, as after torchvision's `transform_input`, which undoes that, from -1 to 1."""
    del name
    return Preprocessing(342, 299, "bilinear", *(HALF if config.get("transform_input", True) else IMAGENET))


INCEPTION_V3 = Family(
    names="inception_v3",
    named=_named,
    config=loose("inception_v3", _complete),
    backbone=_backbone,
    example=lambda config: picture(75, config["num_channels"]),
    tables=_tables,
    usual=_usual,
    architecture=None,
)
FAMILIES = (INCEPTION_V3,)
