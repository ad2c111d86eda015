"""The families of networks that jtl reads, by `model_type`."""

from importlib import import_module
from typing import Any

from jtl.backbones.config import Config
from jtl.backbones.family import Family

_CONFIGS = (  # one line per module that defines `FAMILIES`; a name is looked up in this order
    "resnet.config",
    "resnet.config_variants",
    "bit.config",
    "vit.config",
    "vit.config_deit",
    "vit.config_deit3",
    "vit.config_dinov2",
    "mobilenet_v2.config",
    "clip.config",
    "clip.config_timm",
    "mobilenet_v3.config",
    "efficientnet.config",
    "efficientnet_v2.config",
    "convnext.config",
    "swin.config",
    "inception_v3.config",
    "vgg.config",
    "alexnet.config",
    "densenet.config",
    "cifar_resnet.config",
    "bert.config",
    "gpt2.config",
    "llama.config",
    "wav2vec2.config",
    "whisper.config",
    "recurrent.config",
)

FAMILIES: dict[str, Family[Any]] = {
    family.config.model_type: family
    for module in _CONFIGS
    for family in import_module(f"jtl.backbones.{module}").FAMILIES
}

__all__ = ["FAMILIES", "Config", "Family"]
