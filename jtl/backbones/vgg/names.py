"""Names of VGG and AlexNet: torchvision's, which number all layers in one list, and those of timm's VGG."""

from collections.abc import Sequence

from jtl.weights.mapping.layers import batch_norm, conv, dense, dense_of_maps
from jtl.weights.mapping.rules import Rule
from jtl.weights.mapping.transforms import flat_conv, flat_dense

_SIDE = 7  # side of the map that the first dense layer of a VGG sees


def torchvision_vgg(depths: Sequence[int], channels: int, normalised: bool) -> list[Rule]:
    """Rules for torchvision's VGG.

    Args:
      depths: number of convolutions in each stage.
      channels: channels of the last stage.
      normalised: whether a batch normalisation follows each convolution.
    """
    return [*_classifier((0, 3, 6), channels, _SIDE), *_features(depths, normalised)]


def timm_vgg(depths: Sequence[int], channels: int, normalised: bool) -> list[Rule]:
    """Rules for timm's VGG, whose dense layers are convolutions; arguments as for `torchvision_vgg`."""
    weights, bias = dense(r"pre_logits\.fc1", "backbone/top/hidden1")
    return [
        weights._replace(transform=flat_conv(channels, _SIDE, _SIDE)),
        bias,
        *dense_of_maps(r"pre_logits\.fc2", "backbone/top/hidden2"),
        *dense(r"head\.fc", "head/out"),
        *_features(depths, normalised),
    ]


def _features(depths: Sequence[int], normalised: bool) -> list[Rule]:
    rules, at = [], 0
    for stage, depth in enumerate(depths, 1):
        for i in range(1, depth + 1):
            path = f"backbone/stage{stage}/conv{i}"
            rules += conv(rf"features\.{at}", f"{path}/conv" if normalised else path, bias=True)
            rules += batch_norm(rf"features\.{at + 1}", f"{path}/norm") if normalised else []
            at += 3 if normalised else 2  # the activation takes a number too
        at += 1  # so does the pooling
    return rules


def torchvision_alexnet(channels: int) -> list[Rule]:
    """Rules for torchvision's AlexNet; `channels` are those of the last convolution."""
    rules = _classifier((1, 4, 6), channels, 6)
    for i, at in enumerate((0, 3, 6, 8, 10), 1):
        rules += conv(rf"features\.{at}", f"backbone/conv{i}", bias=True)
    return rules


def _classifier(numbers: tuple[int, int, int], channels: int, side: int) -> list[Rule]:
    first, second, third = (rf"classifier\.{number}" for number in numbers)
    weights, bias = dense(first, "backbone/top/hidden1")
    return [
        weights._replace(transform=flat_dense(channels, side, side)),
        bias,
        *dense(second, "backbone/top/hidden2"),
        *dense(third, "head/out"),
    ]
