"""Backbones: functions that return a `Model` whose output is a dict of features by name."""

from jtl.backbones.cifar_resnet import cifar_resnet
from jtl.backbones.conv4 import conv4
from jtl.backbones.mlp import mlp
from jtl.backbones.mobilenet_v2 import mobilenet_v2
from jtl.backbones.resnet import resnet, resnet18, resnet34, resnet50, resnet101, resnet152
from jtl.backbones.vit import Size, vit

__all__ = [
    "Size",
    "cifar_resnet",
    "conv4",
    "mlp",
    "mobilenet_v2",
    "resnet",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "vit",
]
