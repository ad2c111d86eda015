"""Distilled DeiTs."""

from collections.abc import Sequence

from jtl import backbones, heads
from jtl.backbones.family import Config, Family, picture
from jtl.backbones.vit import config as vit
from jtl.backbones.vit import names_deit as maps
from jtl.model import Model
from jtl.weights.mapping.rules import Rule

_PATTERN = r"deit_(tiny|small|base)_distilled_patch(\d+)_(\d+)"
_ALONE = "DeiTForImageClassification"


def _alone(config: Config) -> bool:
    """Whether the class token is classified alone: by the class, as transformers tells its two apart."""
    return config.get("architectures") == [_ALONE]


def _backbone(config: Config) -> Model:
    return backbones.deit(**vit.measures(config), pool="token" if _alone(config) else "tokens")


def _head(config: Config, classes: int) -> Model:
    return heads.linear(classes) if _alone(config) else heads.averaged(classes)


def _tables(config: Config) -> dict[str, Sequence[Rule]]:
    if _alone(config):
        return {"transformers": maps.with_class_token()}
    return {"transformers": maps.transformers(), "timm": maps.timm()}


DEIT = Family(
    names="deit_{tiny,small,base}_distilled_patch16_224, deit_base_distilled_patch16_384",
    named=lambda name, changes: vit.named("deit", _PATTERN, name, changes),
    complete=vit.complete,
    backbone=_backbone,
    example=lambda config: picture(config["image_size"], config["num_channels"]),
    tables=_tables,
    usual=vit.usual,
    architecture=f"{_ALONE}WithTeacher",
    classifier=lambda config: _ALONE if _alone(config) else None,
    head=_head,
    depth=("num_hidden_layers",),
)
