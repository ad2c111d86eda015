"""ResNets for CIFAR, from akamaster's files."""

import re
from collections.abc import Mapping
from typing import Annotated, Any

from jtl.backbones.cifar_resnet.names import akamaster
from jtl.backbones.cifar_resnet.network import cifar_resnet
from jtl.backbones.config import Config, Range
from jtl.backbones.family import Family, changed, picture
from jtl.preprocess.image import IMAGENET, Preprocessing


class CifarResNetConfig(Config, model_type="cifar_resnet"):
    """The config of a ResNet for CIFAR, with jtl's own entry names."""

    depth: Annotated[int, Range(1, 1202)]


def _named(name: str, changes: Mapping[str, Any]) -> dict[str, Any] | None:
    found = re.fullmatch(r"cifar_resnet(\d+)", name)
    return changed({"model_type": "cifar_resnet", "depth": int(found[1])}, changes, {}) if found else None


FAMILIES = (
    Family(
        config=CifarResNetConfig,
        names="cifar_resnet20, cifar_resnet32, cifar_resnet44, cifar_resnet56, cifar_resnet110",
        named=_named,
        backbone=lambda config: cifar_resnet(config.depth),
        example=lambda config: picture(32, 3),
        tables=lambda config: {"akamaster": akamaster()},
        usual=lambda name, config: Preprocessing(None, None, "bilinear", *IMAGENET),
        blocks=lambda config: (config.depth - 2) // 2,  # of two convolutions, apart from the first one and the head
    ),
)
