"""Names of MobileNetV3: torchvision's."""

from collections.abc import Sequence

from jtl.weights.maps import inverted
from jtl.weights.maps.inverted import Parts, pair
from jtl.weights.maps.layers import dense
from jtl.weights.names import Rule


def torchvision(blocks: Sequence[Parts]) -> list[Rule]:
    """Of torchvision's MobileNetV3, whose stem, blocks and last convolution are one list."""
    rules = pair(r"features\.0\.0", r"features\.0\.1", "backbone/stem")
    for i, parts in enumerate(blocks, 1):
        rules += inverted.torchvision(rf"features\.{i}", f"backbone/block{i}", parts)
    last = rf"features\.{len(blocks) + 1}"
    rules += pair(rf"{last}\.0", rf"{last}\.1", "backbone/top")
    return [*rules, *dense(r"classifier\.0", "backbone/dense/hidden1"), *dense(r"classifier\.3", "head/out")]
