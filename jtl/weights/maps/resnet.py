"""Names of ResNets: transformers', and torchvision's, which timm shares."""

from collections.abc import Iterator, Sequence

from jtl.weights.maps.layers import batch_norm, conv, dense
from jtl.weights.names import Rule


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


def torchvision(blocks: Sequence[int], convolutions: int) -> list[Rule]:
    """Of torchvision's and timm's ResNets; arguments as of `transformers`."""
    top = r"(?:|module\.)"
    rules = [*conv(rf"{top}conv1", "backbone/stem/conv"), *batch_norm(rf"{top}bn1", "backbone/stem/norm")]
    for stage, block in _blocks(blocks):
        name, path = rf"{top}layer{stage + 1}\.{block}", f"backbone/stage{stage + 1}/block{block + 1}"
        for i in range(1, convolutions + 1):
            rules += conv(rf"{name}\.conv{i}", f"{path}/conv{i}")
            rules += batch_norm(rf"{name}\.bn{i}", f"{path}/norm{i}")
        rules += conv(rf"{name}\.downsample\.0", f"{path}/shortcut/conv")
        rules += batch_norm(rf"{name}\.downsample\.1", f"{path}/shortcut/norm")
    return [*rules, *dense(rf"{top}fc", "head/out")]


def _blocks(blocks: Sequence[int]) -> Iterator[tuple[int, int]]:
    return ((stage, block) for stage, count in enumerate(blocks) for block in range(count))
