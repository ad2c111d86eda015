"""DenseNet, from torchvision's and timm's files."""

from collections.abc import Sequence
from typing import Annotated

from jtl.backbones.config import Config, Range, Whole
from jtl.backbones.densenet import names as maps
from jtl.backbones.densenet.network import DenseSize, densenet
from jtl.backbones.family import Family, by_preset, picture
from jtl.preprocess.image import IMAGENET, Preprocessing
from jtl.weights.mapping.rules import Rule

_PRESETS = {
    "densenet121": {"growth_rate": 32, "depths": (6, 12, 24, 16), "embedding_size": 64},
    "densenet161": {"growth_rate": 48, "depths": (6, 12, 36, 24), "embedding_size": 96},
    "densenet169": {"growth_rate": 32, "depths": (6, 12, 32, 32), "embedding_size": 64},
    "densenet201": {"growth_rate": 32, "depths": (6, 12, 48, 32), "embedding_size": 64},
}
_WORDS = {
    "growth_rate": "growth_rate",
    "block_config": "depths",
    "bn_size": "bottleneck_ratio",
    "in_chans": "num_channels",
}


class DenseNetConfig(Config, model_type="densenet"):
    """The config of a DenseNet, with jtl's own entry names."""

    num_channels: Whole = 3
    growth_rate: Whole = 32
    depths: Annotated[tuple[Annotated[int, Range(1, 128)], ...], Range(1, 8)] = (6, 12, 24, 16)
    embedding_size: Whole = 64
    bottleneck_ratio: Annotated[int, Range(1, 64)] = 4


def _tables(config: DenseNetConfig) -> dict[str, Sequence[Rule]]:
    del config
    rules = maps.torchvision()
    return {"torchvision": rules, "timm": rules}


FAMILIES = (
    Family(
        config=DenseNetConfig,
        names="densenet{121,161,169,201}",
        named=by_preset("densenet", _PRESETS, _WORDS),
        backbone=lambda config: densenet(
            DenseSize(config.growth_rate, config.depths, config.embedding_size), bottleneck=config.bottleneck_ratio
        ),
        example=lambda config: picture(2 << len(config.depths), config.num_channels),
        tables=_tables,
        usual=lambda name, config: Preprocessing(256, 224, "bilinear", *IMAGENET),
        blocks=lambda config: sum(config.depths),
    ),
)
