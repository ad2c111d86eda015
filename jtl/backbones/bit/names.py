"""Names of BiT ResNets: transformers', timm's and those of the original release."""

import numpy as np

from jtl.weights.mapping.layers import conv, dense, dense_of_maps, norm
from jtl.weights.mapping.rules import Rule
from jtl.weights.mapping.transforms import Transform


def transformers() -> list[Rule]:
    """Rules for transformers' BitModel and BitForImageClassification."""
    top = r"(?:bit\.|)"
    return [
        *conv(rf"{top}embedder\.convolution", "backbone/stem/conv"),
        *norm(rf"{top}norm", "backbone/norm"),
        *dense(r"classifier\.1", "head/out"),
        *_blocks(rf"{top}encoder\.stages\.(\d+)\.layers\.(\d+)"),
    ]


def timm() -> list[Rule]:
    """Rules for timm's ResNetV2."""
    return [
        *conv(r"stem\.conv", "backbone/stem/conv"),
        *norm("norm", "backbone/norm"),
        *dense_of_maps(r"head\.fc", "head/out"),
        *_blocks(r"stages\.(\d+)\.blocks\.(\d+)"),
    ]


def _blocks(name: str) -> list[Rule]:
    path = "backbone/stage{1+1}/block{2+1}"
    return [
        *conv(rf"{name}\.downsample\.conv", f"{path}/shortcut/conv"),
        *norm(rf"{name}\.norm([123])", rf"{path}/norm\3"),
        *conv(rf"{name}\.conv([123])", rf"{path}/conv\3"),
    ]


def original() -> list[Rule]:
    """Rules for Google's `.npz` files: kernels are [height, width, in, out] as here, block numbers have two digits."""
    kernel = "standardized_conv2d/kernel"
    name, path = r"resnet/block(\d+)/unit(\d\d)", r"backbone/stage\1/block{2+0}"
    rules = [
        Rule(f"resnet/root_block/{kernel}", "backbone/stem/conv/kernel"),
        *_group_norm("resnet/group_norm", "backbone/norm"),
        Rule("resnet/head/conv2d/kernel", "head/out/kernel", _one_pixel),
        Rule("resnet/head/conv2d/bias", "head/out/bias"),
        Rule(f"{name}/a/proj/{kernel}", f"{path}/shortcut/conv/kernel"),
    ]
    for i, letter in enumerate("abc", 1):
        rules += _group_norm(f"{name}/{letter}/group_norm", f"{path}/norm{i}")
        rules.append(Rule(f"{name}/{letter}/{kernel}", f"{path}/conv{i}/kernel"))
    return rules


def _group_norm(name: str, path: str) -> list[Rule]:
    return [Rule(f"{name}/gamma", f"{path}/scale"), Rule(f"{name}/beta", f"{path}/bias")]


def _flat(x: np.ndarray) -> np.ndarray:
    if x.ndim != 4 or x.shape[:2] != (1, 1):
        raise ValueError(f"a convolution over one pixel has shape [1, 1, in, out], this array {x.shape}")
    return x.reshape(x.shape[2:])


_one_pixel = Transform("[1,1,i,o] -> [i,o]", _flat, lambda x: x.reshape(1, 1, *x.shape))
