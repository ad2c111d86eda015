"""Backbones: functions that return a `Model` whose output is a dict of features by name."""

from jtl.backbones.alexnet import alexnet
from jtl.backbones.cifar_resnet import cifar_resnet
from jtl.backbones.conv4 import conv4
from jtl.backbones.convnext import convnext
from jtl.backbones.densenet import DenseSize, densenet
from jtl.backbones.efficientnet import efficientnet
from jtl.backbones.mlp import mlp
from jtl.backbones.mobilenet_v2 import mobilenet_v2
from jtl.backbones.mobilenet_v3 import mobilenet_v3
from jtl.backbones.resnet import resnet, resnet18, resnet34, resnet50, resnet101, resnet152
from jtl.backbones.vgg import vgg

__all__ = [
    "DenseSize",
    "Size",
    "alexnet",
    "cifar_resnet",
    "conv4",
    "convnext",
    "densenet",
    "efficientnet",
    "mlp",
    "mobilenet_v2",
    "mobilenet_v3",
    "resnet",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "vgg",
    "vit",
]
