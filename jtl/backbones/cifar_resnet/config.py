"""ResNets for CIFAR, from akamaster's files."""

import re
from collections.abc import Mapping
from typing import Any

from jtl import backbones
from jtl.backbones.cifar_resnet.names import akamaster
from jtl.backbones.family import Family, Raw, changed, loose, picture, whole
from jtl.preprocess.image import IMAGENET, Preprocessing


def _named(name: str, changes: Mapping[str, Any]) -> Raw | None:
    found = re.fullmatch(r"cifar_resnet(\d+)", name)
    return changed({"model_type": "cifar_resnet", "depth": int(found[1])}, changes, {}) if found else None


def _complete(config: Raw, naming: str) -> Raw:
    del naming
    whole(config, "depth", most=1202)
    return config


CIFAR_RESNET = Family(
    names="cifar_resnet20, cifar_resnet32, cifar_resnet44, cifar_resnet56, cifar_resnet110",
    named=_named,
    config=loose("cifar_resnet", _complete),
    backbone=lambda config: backbones.cifar_resnet(config["depth"]),
    example=lambda config: picture(32, 3),
    tables=lambda config: {"akamaster": akamaster(config["depth"])},
    usual=lambda name, config: Preprocessing(None, None, "bilinear", *IMAGENET),
    architecture=None,
)
FAMILIES = (CIFAR_RESNET,)
