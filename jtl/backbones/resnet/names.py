"""Names of ResNets: transformers', and torchvision's, which timm shares."""

from jtl.weights.mapping.layers import batch_norm, conv, dense, dense_of_maps
from jtl.weights.mapping.rules import Rule


def transformers() -> list[Rule]:
    """Rules for transformers' ResNetModel and ResNetForImageClassification."""
    top = r"(?:resnet\.|)"
    name, block = rf"{top}encoder\.stages\.(\d+)\.layers\.(\d+)", "backbone/stage{1+1}/block{2+1}"
    return [
        *_pair(rf"{top}embedder\.embedder", "backbone/stem", ""),
        *_pair(rf"{name}\.layer\.([012])", block, "{3+1}"),
        *_pair(rf"{name}\.shortcut", f"{block}/shortcut", ""),
        *dense(r"classifier\.1", "head/out"),
    ]


def _pair(name: str, path: str, number: str) -> list[Rule]:
    convolution = conv(rf"{name}\.convolution", f"{path}/conv{number}")
    return [*convolution, *batch_norm(rf"{name}\.normalization", f"{path}/norm{number}")]


def torchvision(*, deep_stem: bool = False, avg_down: bool = False, squeeze: bool = False) -> list[Rule]:
    """Rules for torchvision's and timm's ResNets.

    Args:
      deep_stem: whether the stem has three convolutions.
      avg_down: whether a mean comes before a shortcut's convolution and takes a number.
      squeeze: whether blocks have a squeeze-and-excitation, made of 1x1 convolutions.
    """
    top, first = r"(?:|module\.)", int(avg_down)
    stem = [("1", r"conv1\.0", r"conv1\.1"), ("2", r"conv1\.3", r"conv1\.4"), ("3", r"conv1\.6", "bn1")]
    rules = []
    for number, convolution, normalisation in stem if deep_stem else [("", "conv1", "bn1")]:
        rules += conv(top + convolution, f"backbone/stem/conv{number}")
        rules += batch_norm(top + normalisation, f"backbone/stem/norm{number}")
    name, block = rf"{top}layer(\d+)\.(\d+)", r"backbone/stage\1/block{2+1}"
    rules += conv(rf"{name}\.conv([123])", rf"{block}/conv\3")
    rules += batch_norm(rf"{name}\.bn([123])", rf"{block}/norm\3")
    if squeeze:
        rules += dense_of_maps(rf"{name}\.se\.fc1", f"{block}/squeeze/reduce")
        rules += dense_of_maps(rf"{name}\.se\.fc2", f"{block}/squeeze/expand")
    rules += conv(rf"{name}\.downsample\.{first}", f"{block}/shortcut/conv")
    rules += batch_norm(rf"{name}\.downsample\.{first + 1}", f"{block}/shortcut/norm")
    return [*rules, *dense(rf"{top}fc", "head/out")]
