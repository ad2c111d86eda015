"""DeiT-III."""

from typing import Annotated

from jtl.backbones.config import Range
from jtl.backbones.family import Family, picture
from jtl.backbones.vit import config as vit
from jtl.backbones.vit import names_deit3 as maps
from jtl.backbones.vit.network import deit3

_PATTERN = r"deit3_(small|medium|base|large|huge)_patch(\d+)_(\d+)"
_WORDS = {**vit.WORDS, "init_values": "layerscale_value"}


class DeiT3Config(vit.ViTConfig, model_type="deit3"):
    """The config of a DeiT-III, with the entry names of DINOv2."""

    layerscale_value: Annotated[float, Range(0, 1e6)] = 1e-6


FAMILIES = (
    Family(
        config=DeiT3Config,
        names="deit3_{small,base,large}_patch16_{224,384}, deit3_medium_patch16_224, deit3_huge_patch14_224",
        named=lambda name, changes: vit.named("deit3", _PATTERN, name, changes, _WORDS),
        backbone=lambda config: deit3(**vit.measures(config), layer_scale=config.layerscale_value),
        example=lambda config: picture(config.image_size, config.num_channels),
        tables=lambda config: {"timm": maps.timm()},
        usual=vit.usual,
        depth=("num_hidden_layers",),
    ),
)
