"""Names of ResNets: transformers', and torchvision's, which timm shares."""

from collections.abc import Iterator, Sequence

from jtl.weights.mapping.layers import batch_norm, conv, dense, dense_of_maps
from jtl.weights.mapping.rules import Rule


def transformers(blocks: Sequence[int], convolutions: int) -> list[Rule]:
    """Of transformers' ResNetModel and ResNetForImageClassification.

    Args:
      blocks: how many in each stage.
      convolutions: of a block, 2 or 3.
    """
    top = r"(?:resnet\.|)"
    rules = _pair(rf"{top}embedder\.embedder", "backbone/stem", "")
    for stage, block in _blocks(blocks):
        name = rf"{top}encoder\.stages\.{stage}\.layers\.{block}"
        path = f"backbone/stage{stage + 1}/block{block + 1}"
        for i in range(convolutions):
            rules += _pair(rf"{name}\.layer\.{i}", path, str(i + 1))
        rules += _pair(rf"{name}\.shortcut", f"{path}/shortcut", "")
    return [*rules, *dense(r"classifier\.1", "head/out")]


def _pair(name: str, path: str, number: str) -> list[Rule]:
    convolution = conv(rf"{name}\.convolution", f"{path}/conv{number}")
    return [*convolution, *batch_norm(rf"{name}\.normalization", f"{path}/norm{number}")]


def torchvision(
    blocks: Sequence[int],
    convolutions: int,
    *,
    deep_stem: bool = False,
    avg_down: bool = False,
    squeeze: bool = False,
) -> list[Rule]:
    """Of torchvision's and timm's ResNets.

    Args:
      blocks: how many in each stage.
      convolutions: of a block, 2 or 3.
      deep_stem: whether it has three convolutions.
      avg_down: whether a mean comes before a shortcut's convolution, and is counted.
      squeeze: whether blocks have a squeeze-and-excitation, of 1x1 convolutions.
    """
    top, first = r"(?:|module\.)", int(avg_down)
    stem = [("1", r"conv1\.0", r"conv1\.1"), ("2", r"conv1\.3", r"conv1\.4"), ("3", r"conv1\.6", "bn1")]
    rules = []
    for number, convolution, normalisation in stem if deep_stem else [("", "conv1", "bn1")]:
        rules += conv(top + convolution, f"backbone/stem/conv{number}")
        rules += batch_norm(top + normalisation, f"backbone/stem/norm{number}")
    for stage, block in _blocks(blocks):
        name, path = rf"{top}layer{stage + 1}\.{block}", f"backbone/stage{stage + 1}/block{block + 1}"
        for i in range(1, convolutions + 1):
            rules += conv(rf"{name}\.conv{i}", f"{path}/conv{i}")
            rules += batch_norm(rf"{name}\.bn{i}", f"{path}/norm{i}")
        if squeeze:
            rules += dense_of_maps(rf"{name}\.se\.fc1", f"{path}/squeeze/reduce")
            rules += dense_of_maps(rf"{name}\.se\.fc2", f"{path}/squeeze/expand")
        rules += conv(rf"{name}\.downsample\.{first}", f"{path}/shortcut/conv")
        rules += batch_norm(rf"{name}\.downsample\.{first + 1}", f"{path}/shortcut/norm")
    return [*rules, *dense(rf"{top}fc", "head/out")]


def _blocks(blocks: Sequence[int]) -> Iterator[tuple[int, int]]:
    return ((stage, block) for stage, count in enumerate(blocks) for block in range(count))
