"""Backbones: functions that return a `Model` whose output is a dict of features by name."""

from jtl.backbones.conv4 import conv4
from jtl.backbones.mlp import mlp

__all__ = ["conv4", "mlp"]
