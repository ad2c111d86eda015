"""Names of BiT ResNets: transformers', timm's and those of the original release."""

from collections.abc import Iterator, Sequence

import numpy as np

from jtl.weights.mapping.layers import conv, dense, dense_of_maps, norm
from jtl.weights.mapping.rules import Rule
from jtl.weights.mapping.transforms import Transform


def transformers(depths: Sequence[int]) -> list[Rule]:
    """Of transformers' BitModel and BitForImageClassification.

    Args:
      depths: the number of blocks of each stage.
    """
    top = r"(?:bit\.|)"
    rules = [
        *conv(rf"{top}embedder\.convolution", "backbone/stem/conv"),
        *norm(rf"{top}norm", "backbone/norm"),
        *dense(r"classifier\.1", "head/out"),
    ]
    for stage, block, path in _blocks(depths):
        rules += _block(rf"{top}encoder\.stages\.{stage}\.layers\.{block}", path)
    return rules


def timm(depths: Sequence[int]) -> list[Rule]:
    """Of timm's ResNetV2; `depths` as of `transformers`."""
    rules = [
        *conv(r"stem\.conv", "backbone/stem/conv"),
        *norm("norm", "backbone/norm"),
        *dense_of_maps(r"head\.fc", "head/out"),
    ]
    for stage, block, path in _blocks(depths):
        rules += _block(rf"stages\.{stage}\.blocks\.{block}", path)
    return rules


def _block(name: str, path: str) -> list[Rule]:
    rules = conv(rf"{name}\.downsample\.conv", f"{path}/shortcut/conv")
    for i in (1, 2, 3):
        rules += [*norm(rf"{name}\.norm{i}", f"{path}/norm{i}"), *conv(rf"{name}\.conv{i}", f"{path}/conv{i}")]
    return rules


def original(depths: Sequence[int]) -> list[Rule]:
    """Of Google's `.npz` files; `depths` as of `transformers`. Kernels lie there as here, [height, width, in, out]."""
    kernel = "standardized_conv2d/kernel"
    rules = [
        Rule(f"resnet/root_block/{kernel}", "backbone/stem/conv/kernel"),
        *_group_norm("resnet/group_norm", "backbone/norm"),
        Rule("resnet/head/conv2d/kernel", "head/out/kernel", _one_pixel),
        Rule("resnet/head/conv2d/bias", "head/out/bias"),
    ]
    for stage, block, path in _blocks(depths):
        name = f"resnet/block{stage + 1}/unit{block + 1:02}"
        rules.append(Rule(f"{name}/a/proj/{kernel}", f"{path}/shortcut/conv/kernel"))
        for i, letter in enumerate("abc", 1):
            rules += _group_norm(f"{name}/{letter}/group_norm", f"{path}/norm{i}")
            rules.append(Rule(f"{name}/{letter}/{kernel}", f"{path}/conv{i}/kernel"))
    return rules


def _group_norm(name: str, path: str) -> list[Rule]:
    return [Rule(f"{name}/gamma", f"{path}/scale"), Rule(f"{name}/beta", f"{path}/bias")]


def _blocks(depths: Sequence[int]) -> Iterator[tuple[int, int, str]]:
    for stage, depth in enumerate(depths):
        for block in range(depth):
            yield stage, block, f"backbone/stage{stage + 1}/block{block + 1}"


def _flat(x: np.ndarray) -> np.ndarray:
    if x.ndim != 4 or x.shape[:2] != (1, 1):
        raise ValueError(f"a convolution over one pixel has shape [1, 1, in, out], this array {x.shape}")
    return x.reshape(x.shape[2:])


_one_pixel = Transform("[1,1,i,o] -> [i,o]", _flat, lambda x: x.reshape(1, 1, *x.shape))
