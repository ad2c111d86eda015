"""Names of EfficientNets: transformers', timm's and torchvision's."""

from collections.abc import Iterator, Sequence

from jtl.weights.mapping import inverted_residual
from jtl.weights.mapping.inverted_residual import Parts, pair
from jtl.weights.mapping.layers import dense, dense_of_maps
from jtl.weights.mapping.rules import Rule

Stages = Sequence[tuple[int, bool]]
"""(blocks, whether they expand) of each stage."""


def transformers(stages: Stages) -> list[Rule]:
    """Of transformers' EfficientNetModel and EfficientNetForImageClassification."""
    top = r"(?:efficientnet\.|)"
    rules = [
        *pair(rf"{top}embeddings\.convolution", rf"{top}embeddings\.batchnorm", "backbone/stem"),
        *pair(rf"{top}encoder\.top_conv", rf"{top}encoder\.top_bn", "backbone/top"),
        *dense("classifier", "head/out"),
    ]
    for number, (_, _, expand) in enumerate(_blocks(stages)):
        name, path = rf"{top}encoder\.blocks\.{number}", f"backbone/block{number + 1}"
        layers = {"depthwise": (r"depthwise_conv\.depthwise_conv", r"depthwise_conv\.depthwise_norm")}
        layers["project"] = (r"projection\.project_conv", r"projection\.project_bn")
        if expand:
            layers["expand"] = (r"expansion\.expand_conv", r"expansion\.expand_bn")
        for layer, (convolution, norm) in layers.items():
            rules += pair(rf"{name}\.{convolution}", rf"{name}\.{norm}", f"{path}/{layer}")
        for layer in ("reduce", "expand"):
            rules += dense_of_maps(rf"{name}\.squeeze_excite\.{layer}", f"{path}/squeeze/{layer}")
    return rules


def timm(stages: Stages) -> list[Rule]:
    """Of timm's EfficientNet."""
    return inverted_residual.efficientnet([[Parts(expand, True)] * count for count, expand in stages])


def torchvision(stages: Stages) -> list[Rule]:
    """Of torchvision's EfficientNet."""
    last = rf"features\.{len(stages) + 1}"
    rules = [
        *pair(r"features\.0\.0", r"features\.0\.1", "backbone/stem"),
        *pair(rf"{last}\.0", rf"{last}\.1", "backbone/top"),
        *dense(r"classifier\.1", "head/out"),
    ]
    for number, (stage, block, expand) in enumerate(_blocks(stages), 1):
        name = rf"features\.{stage + 1}\.{block}"
        rules += inverted_residual.torchvision(name, f"backbone/block{number}", Parts(expand, True))
    return rules


def _blocks(stages: Stages) -> Iterator[tuple[int, int, bool]]:
    return ((stage, i, expand) for stage, (count, expand) in enumerate(stages) for i in range(count))
