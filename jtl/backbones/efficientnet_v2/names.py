"""Names of EfficientNetV2s: timm's and torchvision's."""

from collections.abc import Callable, Sequence

from jtl.backbones.efficientnet_v2.network import V2Stage
from jtl.weights.mapping import inverted_residual
from jtl.weights.mapping.inverted_residual import Parts, one_of, pair
from jtl.weights.mapping.layers import dense
from jtl.weights.mapping.rules import Rule


def timm(stages: Sequence[V2Stage]) -> list[Rule]:
    """Rules for timm's EfficientNet."""
    ends = [*pair("conv_stem", "bn1", "backbone/stem"), *pair("conv_head", "bn2", "backbone/top")]
    return [*ends, *dense("classifier", "head/out"), *_blocks(stages, r"blocks\.{}\.{}", 0, _timm)]


def torchvision(stages: Sequence[V2Stage]) -> list[Rule]:
    """Rules for torchvision's EfficientNet."""
    last = rf"features\.{len(stages) + 1}"
    ends = [
        *pair(r"features\.0\.0", r"features\.0\.1", "backbone/stem"),
        *pair(rf"{last}\.0", rf"{last}\.1", "backbone/top"),
    ]
    return [*ends, *dense(r"classifier\.1", "head/out"), *_blocks(stages, r"features\.{}\.{}", 1, _torchvision)]


def _blocks(
    stages: Sequence[V2Stage], name: str, first: int, rules: Callable[[str, str, V2Stage], list[Rule]]
) -> list[Rule]:
    """Rules for all blocks, which the library numbers within each stage, from `first` on, and jtl throughout."""
    found, before = [], 0
    for at, stage in enumerate(stages, first):
        blocks = name.format(at, one_of(range(stage.repeats)))
        found += rules(blocks, f"backbone/block{{1+{before + 1}}}", stage)
        before += stage.repeats
    return found


def _timm(name: str, path: str, stage: V2Stage) -> list[Rule]:
    if stage.kind == "inverted":
        return inverted_residual.timm_block(name, path, Parts(stage.expansion > 1, True))
    if stage.kind == "conv":
        return pair(rf"{name}\.conv", rf"{name}\.bn1", f"{path}/fused")
    return [
        *pair(rf"{name}\.conv_exp", rf"{name}\.bn1", f"{path}/fused"),
        *pair(rf"{name}\.conv_pwl", rf"{name}\.bn2", f"{path}/project"),
    ]


def _torchvision(name: str, path: str, stage: V2Stage) -> list[Rule]:
    if stage.kind == "inverted":
        return inverted_residual.torchvision(name, path, Parts(stage.expansion > 1, True))
    layers = ("fused",) if stage.kind == "conv" else ("fused", "project")
    return [
        rule
        for i, layer in enumerate(layers)
        for rule in pair(rf"{name}\.block\.{i}\.0", rf"{name}\.block\.{i}\.1", f"{path}/{layer}")
    ]
