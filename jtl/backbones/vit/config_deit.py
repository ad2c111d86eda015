"""Distilled DeiTs."""

from collections.abc import Sequence

from jtl import heads
from jtl.backbones.family import Family, picture
from jtl.backbones.vit import config as vit
from jtl.backbones.vit import names_deit as maps
from jtl.backbones.vit.network import deit
from jtl.model import Model
from jtl.weights.mapping.rules import Rule

_PATTERN = r"deit_(tiny|small|base)_distilled_patch(\d+)_(\d+)"
_ALONE = "DeiTForImageClassification"


class DeiTConfig(vit.ViTConfig, model_type="deit"):
    """The config of a distilled DeiT."""

    @property
    def alone(self) -> bool:
        """Whether only the class token is classified: decided by the class name, as in transformers."""
        return self.extra.get("architectures") == [_ALONE]


def _backbone(config: DeiTConfig) -> Model:
    return deit(**vit.measures(config), pool="token" if config.alone else "tokens")


def _head(config: DeiTConfig, classes: int) -> Model:
    return heads.linear(classes) if config.alone else heads.averaged(classes)


def _tables(config: DeiTConfig) -> dict[str, Sequence[Rule]]:
    if config.alone:
        return {"transformers": maps.with_class_token()}
    return {"transformers": maps.transformers(), "timm": maps.timm()}


FAMILIES = (
    Family(
        config=DeiTConfig,
        names="deit_{tiny,small,base}_distilled_patch16_224, deit_base_distilled_patch16_384",
        named=lambda name, changes: vit.named("deit", _PATTERN, name, changes),
        backbone=_backbone,
        example=lambda config: picture(config.image_size, config.num_channels),
        tables=_tables,
        usual=vit.usual,
        architecture=f"{_ALONE}WithTeacher",
        classifier=lambda config: _ALONE if config.alone else None,
        head=_head,
        depth=("num_hidden_layers",),
    ),
)
