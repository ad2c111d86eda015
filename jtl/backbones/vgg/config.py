"""VGG, from torchvision's and timm's files."""

from collections.abc import Sequence
from typing import Annotated

from jtl.backbones.config import Config, DropRate, Range, Whole, Widths
from jtl.backbones.family import Family, by_preset, picture
from jtl.backbones.vgg import names as maps
from jtl.backbones.vgg.network import DEPTHS, vgg
from jtl.preprocess.image import IMAGENET, Preprocessing
from jtl.weights.mapping.rules import Rule

_PRESETS = {
    f"vgg{depth}{suffix}": {"depths": depths, "batch_norm": bool(suffix)}
    for suffix in ("", "_bn")
    for depth, depths in DEPTHS.items()
}


class VGGConfig(Config, model_type="vgg"):
    """The config of a VGG, with jtl's own entry names."""

    num_channels: Whole = 3
    hidden_sizes: Widths = (64, 128, 256, 512, 512)
    depths: Annotated[tuple[Annotated[int, Range(1, 64)], ...], Range(1, 8)] = (2, 2, 3, 3, 3)
    batch_norm: bool = False
    intermediate_size: Whole = 4096
    dropout: DropRate = 0.5

    def _check(self) -> None:
        self._as_many("depths", "hidden_sizes")


def _tables(config: VGGConfig) -> dict[str, Sequence[Rule]]:
    measures = config.depths, config.hidden_sizes[-1], config.batch_norm
    return {"torchvision": maps.torchvision_vgg(*measures), "timm": maps.timm_vgg(*measures)}


FAMILIES = (
    Family(
        config=VGGConfig,
        names="vgg{11,13,16,19}, vgg{11,13,16,19}_bn",
        named=by_preset("vgg", _PRESETS, {"in_chans": "num_channels"}),
        backbone=lambda config: vgg(
            list(zip(config.depths, config.hidden_sizes, strict=True)),
            batch_norm=config.batch_norm,
            hidden=config.intermediate_size,
            dropout=config.dropout,
        ),
        example=lambda config: picture(1 << len(config.depths), config.num_channels),
        tables=_tables,
        usual=lambda name, config: Preprocessing(256, 224, "bilinear", *IMAGENET),
        blocks=lambda config: sum(config.depths),
    ),
)
