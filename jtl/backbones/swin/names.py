"""Names of Swin transformers: transformers', timm's, those of its own release, and torchvision's."""

import math
from collections.abc import Sequence

import numpy as np

from jtl.backbones.swin.network import differences
from jtl.backbones.vit.names import fused
from jtl.weights.mapping.layers import conv, dense, norm
from jtl.weights.mapping.rules import Rule
from jtl.weights.mapping.transforms import dense as transposed


def transformers(depths: Sequence[int]) -> list[Rule]:
    """Of transformers' SwinModel and SwinForImageClassification.

    Args:
      depths: the number of blocks of each stage.
    """
    top = r"(?:swin\.|)"
    rules = [
        *conv(rf"{top}embeddings\.patch_embeddings\.projection", "backbone/stem/conv", bias=True),
        *norm(rf"{top}embeddings\.norm", "backbone/stem/norm"),
        *norm(rf"{top}layernorm", "backbone/norm"),
        *dense("classifier", "head/out"),
    ]
    for stage, depth in enumerate(depths, 1):
        layer = rf"{top}encoder\.layers\.{stage - 1}"
        rules += _down(rf"{layer}\.downsample", stage + 1) if stage < len(depths) else []
        for i in range(depth):
            name, path = rf"{layer}\.blocks\.{i}", f"backbone/stage{stage}/block{i + 1}"
            for part in ("query", "key", "value"):
                rules += dense(rf"{name}\.attention\.self\.{part}", f"{path}/attention/{part}")
            rules += dense(rf"{name}\.attention\.output\.dense", f"{path}/attention/out")
            rules += _positions(rf"{name}\.attention\.self", path)
            rules += norm(rf"{name}\.layernorm_before", f"{path}/norm1")
            rules += norm(rf"{name}\.layernorm_after", f"{path}/norm2")
            rules += dense(rf"{name}\.intermediate\.dense", f"{path}/mlp/up")
            rules += dense(rf"{name}\.output\.dense", f"{path}/mlp/down")
    return rules


def timm(depths: Sequence[int]) -> list[Rule]:
    """Of timm's SwinTransformer from 0.9 on, whose stages begin with the step down; `depths` as of `transformers`."""
    rules = [*_ends(r"patch_embed\.proj", r"patch_embed\.norm", r"head\.fc"), *_blocks(depths)]
    for stage in range(2, len(depths) + 1):
        rules += _down(rf"layers\.{stage - 1}\.downsample", stage)
    return rules


def original(depths: Sequence[int]) -> list[Rule]:
    """Of the `.pth` files of microsoft/Swin-Transformer and of older timm, whose stages end with the step down."""
    rules = [*_ends(r"patch_embed\.proj", r"patch_embed\.norm", "head"), *_blocks(depths)]
    for stage in range(2, len(depths) + 1):
        rules += _down(rf"layers\.{stage - 2}\.downsample", stage)
    return rules


def torchvision(depths: Sequence[int]) -> list[Rule]:
    """Of torchvision's SwinTransformer, whose stages and steps between them are one list."""
    rules = _ends(r"features\.0\.0", r"features\.0\.2", "head")
    for stage, depth in enumerate(depths, 1):
        rules += _down(rf"features\.{2 * stage}", stage + 1) if stage < len(depths) else []
        for i in range(depth):
            name, path = rf"features\.{2 * stage - 1}\.{i}", f"backbone/stage{stage}/block{i + 1}"
            rules += _block(name, path, (r"mlp\.0", r"mlp\.3"))
    return rules


def index(table: np.ndarray) -> np.ndarray:
    """What torchvision saves beside a table: the row for each pair of a window's tokens."""
    window = (math.isqrt(len(table)) + 1) // 2
    return differences(window, window).reshape(-1)


def _blocks(depths: Sequence[int]) -> list[Rule]:
    rules = []
    for stage, depth in enumerate(depths, 1):
        for i in range(depth):
            name, path = rf"layers\.{stage - 1}\.blocks\.{i}", f"backbone/stage{stage}/block{i + 1}"
            rules += _block(name, path, (r"mlp\.fc1", r"mlp\.fc2"))
    return rules


def _block(name: str, path: str, mlp: tuple[str, str]) -> list[Rule]:
    return [
        *fused(rf"{name}\.attn\.qkv", f"{path}/attention"),
        *dense(rf"{name}\.attn\.proj", f"{path}/attention/out"),
        *_positions(rf"{name}\.attn", path),
        Rule(rf"{name}\.attn_mask", None),
        *norm(rf"{name}\.norm1", f"{path}/norm1"),
        *norm(rf"{name}\.norm2", f"{path}/norm2"),
        *dense(rf"{name}\.{mlp[0]}", f"{path}/mlp/up"),
        *dense(rf"{name}\.{mlp[1]}", f"{path}/mlp/down"),
    ]


def _positions(name: str, path: str) -> list[Rule]:
    """The table, and older files' index into it, which is the same for all weights."""
    return [
        Rule(rf"{name}\.relative_position_bias_table", f"{path}/position"),
        Rule(rf"{name}\.relative_position_index", None),
    ]


def _down(name: str, stage: int) -> list[Rule]:
    path = f"backbone/stage{stage}/down"
    return [
        *norm(rf"{name}\.norm", f"{path}/norm"),
        Rule(rf"{name}\.reduction\.weight", f"{path}/dense/kernel", transposed),
    ]


def _ends(embed: str, first: str, head: str) -> list[Rule]:
    return [
        *conv(embed, "backbone/stem/conv", bias=True),
        *norm(first, "backbone/stem/norm"),
        *norm("norm", "backbone/norm"),
        *dense(head, "head/out"),
    ]
