"""Inception-v3, from files of torchvision and timm."""

from collections.abc import Sequence
from typing import Annotated

from jtl.backbones.config import Config, Factor, Range, Rate, Whole
from jtl.backbones.family import Family, by_preset, picture
from jtl.backbones.inception_v3 import names as maps
from jtl.backbones.inception_v3.network import inception_v3
from jtl.preprocess.image import HALF, IMAGENET, Preprocessing
from jtl.weights.mapping.rules import Rule

_WORDS = {"in_chans": "num_channels", "transform_input": "transform_input"}


class InceptionV3Config(Config, model_type="inception_v3"):
    """The config of an Inception-v3, with jtl's own entry names."""

    num_channels: Whole = 3
    depth_multiplier: Factor = 1.0
    depths: Annotated[tuple[Annotated[int, Range(1, 5)], ...], Range(1, 3)] = (3, 5, 3)
    layer_norm_eps: Rate = 1e-3
    transform_input: bool = True


def _tables(config: InceptionV3Config) -> dict[str, Sequence[Rule]]:
    del config
    rules = maps.torchvision()
    return {"torchvision": rules, "timm": rules}


def _usual(name: str, config: InceptionV3Config) -> Preprocessing:
    """ImageNet's normalisation; or to [-1, 1], which is the result of torchvision's `transform_input`."""
    del name
    return Preprocessing(342, 299, "bilinear", *(HALF if config.transform_input else IMAGENET))


FAMILIES = (
    Family(
        config=InceptionV3Config,
        names="inception_v3",
        named=by_preset("inception_v3", {"inception_v3": {}}, _WORDS),
        backbone=lambda config: inception_v3(config.depth_multiplier, depths=config.depths, eps=config.layer_norm_eps),
        example=lambda config: picture(75, config.num_channels),
        tables=_tables,
        usual=_usual,
        blocks=lambda config: sum(config.depths),
    ),
)
