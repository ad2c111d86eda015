"""Names of networks with inverted residual blocks: torchvision's, whose blocks are lists, and timm's."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from jtl.weights.mapping.layers import batch_norm, conv, dense, dense_of_maps
from jtl.weights.mapping.rules import Rule


class Parts(NamedTuple):
    """The parts of a block in addition to its depthwise convolution and its projection."""

    expand: bool
    squeeze: bool


def pair(convolution: str, norm: str, path: str) -> list[Rule]:
    """Rules for a convolution and its normalisation."""
    return [*conv(convolution, f"{path}/conv"), *batch_norm(norm, f"{path}/norm")]


def kinds(blocks: Sequence[Parts]) -> dict[Parts, list[int]]:
    """Groups the numbers of the blocks, from 0 on, by their parts."""
    found: dict[Parts, list[int]] = {}
    for number, parts in enumerate(blocks):
        found.setdefault(parts, []).append(number)
    return found


def one_of(numbers: Iterable[int]) -> str:
    """A regex group that matches only these numbers; if it matched any, the paths of two stages would overlap."""
    return f"({'|'.join(map(str, numbers))})"


def torchvision(name: str, path: str, parts: Parts) -> list[Rule]:
    """Rules for blocks of torchvision's MobileNetV3 and EfficientNet: a missing part takes no number."""
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
    """Rules for timm's EfficientNet, a class that its MobileNetV2 uses too."""
    return [*timm(stages), *pair("conv_head", "bn2", "backbone/top"), *dense("classifier", "head/out")]


def timm(stages: Sequence[Sequence[Parts]]) -> list[Rule]:
    """Rules for the stem and the blocks of each stage of timm's networks."""
    rules, before = pair("conv_stem", "bn1", "backbone/stem"), 0
    for stage, blocks in enumerate(stages):
        for parts, numbers in kinds(blocks).items():
            rules += timm_block(rf"blocks\.{stage}\.{one_of(numbers)}", f"backbone/block{{1+{before + 1}}}", parts)
        before += len(blocks)
    return rules


def timm_block(name: str, path: str, parts: Parts) -> list[Rule]:
    """Rules for timm's blocks: without an expansion, the projection is the only pointwise convolution."""
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
