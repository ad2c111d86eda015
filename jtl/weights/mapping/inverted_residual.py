"""Names of networks of inverted residual blocks: torchvision's, whose blocks are lists, and timm's."""

from collections.abc import Sequence
from typing import NamedTuple

from jtl.weights.mapping.layers import batch_norm, conv, dense, dense_of_maps
from jtl.weights.mapping.rules import Rule


class Parts(NamedTuple):
    """What a block has beside its depthwise convolution and its projection."""

    expand: bool
    squeeze: bool


def pair(convolution: str, norm: str, path: str) -> list[Rule]:
    """A convolution and its normalisation."""
    return [*conv(convolution, f"{path}/conv"), *batch_norm(norm, f"{path}/norm")]


def torchvision(name: str, path: str, parts: Parts) -> list[Rule]:
    """Of one block of torchvision's MobileNetV3 and EfficientNet: what it lacks has no number either."""
    layers = [*(["expand"] if parts.expand else []), "depthwise", *(["squeeze"] if parts.squeeze else []), "project"]
    rules = []
    for i, layer in enumerate(layers):
        at, then = rf"{name}\.block\.{i}", f"{path}/{layer}"
        if layer == "squeeze":
            rules += [*dense_of_maps(rf"{at}\.fc1", f"{then}/reduce"), *dense_of_maps(rf"{at}\.fc2", f"{then}/expand")]
        else:
            rules += pair(rf"{at}\.0", rf"{at}\.1", then)
    return rules


def efficientnet(stages: Sequence[Sequence[Parts]]) -> list[Rule]:
    """Of timm's EfficientNet, which its MobileNetV2 is too."""
    return [*timm(stages), *pair("conv_head", "bn2", "backbone/top"), *dense("classifier", "head/out")]


def timm(stages: Sequence[Sequence[Parts]]) -> list[Rule]:
    """Of the stem and of the blocks of each stage of timm's networks."""
    rules, number = pair("conv_stem", "bn1", "backbone/stem"), 0
    for stage, blocks in enumerate(stages):
        for block, parts in enumerate(blocks):
            number += 1
            rules += timm_block(rf"blocks\.{stage}\.{block}", f"backbone/block{number}", parts)
    return rules


def timm_block(name: str, path: str, parts: Parts) -> list[Rule]:
    """Of one block of timm's: the projection is the only pointwise convolution where nothing expands."""
    rules = []
    if parts.expand:
        layers = {"expand": ("conv_pw", "bn1"), "depthwise": ("conv_dw", "bn2"), "project": ("conv_pwl", "bn3")}
    else:
        layers = {"depthwise": ("conv_dw", "bn1"), "project": ("conv_pw", "bn2")}
    for layer, (convolution, norm) in layers.items():
        rules += pair(rf"{name}\.{convolution}", rf"{name}\.{norm}", f"{path}/{layer}")
    if parts.squeeze:
        rules += dense_of_maps(rf"{name}\.se\.conv_reduce", f"{path}/squeeze/reduce")
        rules += dense_of_maps(rf"{name}\.se\.conv_expand", f"{path}/squeeze/expand")
    return rules
