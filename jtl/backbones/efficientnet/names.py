"""Names of EfficientNets: transformers', timm's and torchvision's."""

from collections.abc import Sequence

from jtl.weights.mapping import inverted_residual
from jtl.weights.mapping.inverted_residual import Parts, one_of, pair
from jtl.weights.mapping.layers import dense, dense_of_maps
from jtl.weights.mapping.rules import Rule

Stages = Sequence[tuple[int, bool]]
"""(number of blocks, whether they expand) of each stage."""


def transformers() -> list[Rule]:
    """Rules for transformers' EfficientNetModel and EfficientNetForImageClassification; blocks are numbered as here."""
    top = r"(?:efficientnet\.|)"
    name, path = rf"{top}encoder\.blocks\.(\d+)", "backbone/block{1+1}"
    layers = {
        "expand": (r"expansion\.expand_conv", r"expansion\.expand_bn"),
        "depthwise": (r"depthwise_conv\.depthwise_conv", r"depthwise_conv\.depthwise_norm"),
        "project": (r"projection\.project_conv", r"projection\.project_bn"),
    }
    rules = [
        *pair(rf"{top}embeddings\.convolution", rf"{top}embeddings\.batchnorm", "backbone/stem"),
        *pair(rf"{top}encoder\.top_conv", rf"{top}encoder\.top_bn", "backbone/top"),
        *dense("classifier", "head/out"),
        *dense_of_maps(rf"{name}\.squeeze_excite\.(reduce|expand)", rf"{path}/squeeze/\2"),
    ]
    for layer, (convolution, norm) in layers.items():
        rules += pair(rf"{name}\.{convolution}", rf"{name}\.{norm}", f"{path}/{layer}")
    return rules


def timm(stages: Stages) -> list[Rule]:
    """Rules for timm's EfficientNet."""
    return inverted_residual.efficientnet([[Parts(expand, True)] * count for count, expand in stages])


def torchvision(stages: Stages) -> list[Rule]:
    """Rules for torchvision's EfficientNet."""
    last = rf"features\.{len(stages) + 1}"
    rules = [
        *pair(r"features\.0\.0", r"features\.0\.1", "backbone/stem"),
        *pair(rf"{last}\.0", rf"{last}\.1", "backbone/top"),
        *dense(r"classifier\.1", "head/out"),
    ]
    before = 0
    for stage, (count, expand) in enumerate(stages, 1):
        name, path = rf"features\.{stage}\.{one_of(range(count))}", f"backbone/block{{1+{before + 1}}}"
        rules += inverted_residual.torchvision(name, path, Parts(expand, True))
        before += count
    return rules
