"""Names of Swin transformers: transformers', timm's, those of the original release, and torchvision's."""

import math

import numpy as np

from jtl.backbones.swin.network import differences
from jtl.backbones.vit.names import MEMORY, fused, in_memory
from jtl.weights.mapping.layers import conv, dense, norm
from jtl.weights.mapping.rules import Rule
from jtl.weights.mapping.transforms import dense as transposed

_BLOCK = "backbone/stage{1+1}/block{2+1}"


def transformers() -> list[Rule]:
    """Rules for transformers' SwinModel and SwinForImageClassification."""
    top = r"(?:swin\.|)"
    name = rf"{top}encoder\.layers\.(\d+)\.blocks\.(\d+)"
    blocks = [
        *dense(rf"{name}\.attention\.self\.(query|key|value)", rf"{_BLOCK}/attention/\3"),
        *dense(rf"{name}\.attention\.output\.dense", f"{_BLOCK}/attention/out"),
        *_positions(rf"{name}\.attention\.self", _BLOCK),
        *norm(rf"{name}\.layernorm_before", f"{_BLOCK}/norm1"),
        *norm(rf"{name}\.layernorm_after", f"{_BLOCK}/norm2"),
        *dense(rf"{name}\.intermediate\.dense", f"{_BLOCK}/mlp/up"),
        *dense(rf"{name}\.output\.dense", f"{_BLOCK}/mlp/down"),
    ]
    return [
        *conv(rf"{top}embeddings\.patch_embeddings\.projection", "backbone/stem/conv", bias=True),
        *norm(rf"{top}embeddings\.norm", "backbone/stem/norm"),
        *norm(rf"{top}layernorm", "backbone/norm"),
        *dense("classifier", "head/out"),
        *_down(rf"{top}encoder\.layers\.(\d+)\.downsample", "{1+2}"),
        *blocks,
        *in_memory(blocks, MEMORY),
    ]


def timm() -> list[Rule]:
    """Rules for timm's SwinTransformer since 0.9, where every stage but the first begins with the downsampling."""
    ends = _ends(r"patch_embed\.proj", r"patch_embed\.norm", r"head\.fc")
    return [*ends, *_blocks(), *_down(r"layers\.([1-9]\d*)\.downsample", "{1+1}")]


def original() -> list[Rule]:
    """Rules for `.pth` files of microsoft/Swin-Transformer and older timm, whose stages end with the downsampling."""
    ends = _ends(r"patch_embed\.proj", r"patch_embed\.norm", "head")
    return [*ends, *_blocks(), *_down(r"layers\.(\d+)\.downsample", "{1+2}")]


def torchvision(stages: int) -> list[Rule]:
    """Rules for torchvision's SwinTransformer, where all `stages` and the downsampling between them are one list."""
    rules = _ends(r"features\.0\.0", r"features\.0\.2", "head")
    for stage in range(1, stages + 1):
        rules += _down(rf"features\.{2 * stage}", str(stage + 1)) if stage < stages else []
        name, path = rf"features\.{2 * stage - 1}\.(\d+)", f"backbone/stage{stage}/block{{1+1}}"
        rules += _block(name, path, (r"mlp\.0", r"mlp\.3"))
    return rules


def index(table: np.ndarray) -> np.ndarray:
    """The index that torchvision saves with a table: the row for each pair of a window's tokens."""
    window = (math.isqrt(len(table)) + 1) // 2
    return differences(window, window).reshape(-1)


def _blocks() -> list[Rule]:
    return _block(r"layers\.(\d+)\.blocks\.(\d+)", _BLOCK, (r"mlp\.fc1", r"mlp\.fc2"))


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
    """Rules for the table and for the index into it in older files, which is the same for all weights."""
    return [
        Rule(rf"{name}\.relative_position_bias_table", f"{path}/position"),
        Rule(rf"{name}\.relative_position_index", None),
    ]


def _down(name: str, stage: str) -> list[Rule]:
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
