"""Names of MobileNetV3: torchvision's and timm's."""

from collections.abc import Sequence

from jtl.weights.mapping import inverted_residual
from jtl.weights.mapping.inverted_residual import Parts, kinds, one_of, pair
from jtl.weights.mapping.layers import dense, dense_of_maps
from jtl.weights.mapping.rules import Rule


def torchvision(blocks: Sequence[Parts]) -> list[Rule]:
    """Rules for torchvision's MobileNetV3, whose stem, blocks and last convolution are one list."""
    rules = pair(r"features\.0\.0", r"features\.0\.1", "backbone/stem")
    for parts, numbers in kinds(blocks).items():
        name = rf"features\.{one_of(i + 1 for i in numbers)}"
        rules += inverted_residual.torchvision(name, r"backbone/block\1", parts)
    last = rf"features\.{len(blocks) + 1}"
    rules += pair(rf"{last}\.0", rf"{last}\.1", "backbone/top")
    return [*rules, *dense(r"classifier\.0", "backbone/dense/hidden1"), *dense(r"classifier\.3", "head/out")]


def timm(stages: Sequence[Sequence[Parts]]) -> list[Rule]:
    """Rules for timm's MobileNetV3: its last convolution is a stage, its dense layer a convolution after pooling."""
    last = rf"blocks\.{len(stages)}\.0"
    return [
        *inverted_residual.timm(stages),
        *pair(rf"{last}\.conv", rf"{last}\.bn1", "backbone/top"),
        *dense_of_maps("conv_head", "backbone/dense/hidden1"),
        *dense("classifier", "head/out"),
    ]
