r"""Names of vision transformers: transformers', timm's and those of the original JAX releases."""

from collections.abc import Mapping, Sequence

from jtl.weights.mapping.layers import conv, dense, norm
from jtl.weights.mapping.rules import Rule
from jtl.weights.mapping.transforms import dense as transposed
from jtl.weights.mapping.transforms import merge_axes, split

BLOCK = "backbone/block{1+1}"
"""The path of the block whose number, counted from 0, is group 1."""


def transformers(model: str = "vit") -> list[Rule]:
    """Rules for transformers' ViTModel and ViTForImageClassification, or a network with the same blocks.

    Args:
      model: the `model_type`, which is the prefix if there is a classifier.
    """
    top = rf"(?:{model}\.|)"
    name = rf"{top}encoder\.layer\.(\d+)"
    blocks = [
        *attention(rf"{name}\.attention", f"{BLOCK}/attention"),
        *norm(rf"{name}\.layernorm_before", f"{BLOCK}/norm1"),
        *norm(rf"{name}\.layernorm_after", f"{BLOCK}/norm2"),
        *dense(rf"{name}\.intermediate\.dense", f"{BLOCK}/mlp/up"),
        *dense(rf"{name}\.output\.dense", f"{BLOCK}/mlp/down"),
    ]
    return [*ends(top), *blocks, *in_memory(blocks, {r"encoder\.layer\.": r"layers\.", **MEMORY})]


def ends(top: str) -> list[Rule]:
    """Rules for the layers before and after the blocks, under transformers' names after the prefix `top`."""
    return [
        Rule(rf"{top}embeddings\.cls_token", "backbone/class_token"),
        Rule(rf"{top}embeddings\.position_embeddings", "backbone/position"),
        *conv(rf"{top}embeddings\.patch_embeddings\.projection", "backbone/embed", bias=True),
        *norm(rf"{top}layernorm", "backbone/norm"),
        *dense("classifier", "head/out"),
    ]


def attention(name: str, path: str) -> list[Rule]:
    """Rules for a block's attention under transformers' names; `name` has one group, the block's number."""
    parts = dense(rf"{name}\.attention\.(query|key|value)", rf"{path}/\2")
    return [*parts, *dense(rf"{name}\.output\.dense", f"{path}/out")]


MEMORY = {
    r"attention\.output\.dense": r"attention\.o_proj",
    r"attention\.attention\.": r"attention\.",
    r"attention\.self\.relative": r"attention\.relative_position_bias\.relative",
    r"attention\.self\.": r"attention\.",
    r"intermediate\.dense": r"mlp\.fc1",
    r"(\d+)\.output\.dense": r"(\d+)\.mlp\.fc2",
}
"""Names in transformers' files -> names in its networks since version 5, whose `state_dict()` differs from the file."""


def in_memory(rules: Sequence[Rule], words: Mapping[str, str]) -> list[Rule]:
    """The rules whose names differ in memory, for files made by `torch.save(model.state_dict())`.

    Args:
      rules: rules for the names in files.
      words: part of a pattern -> its replacement in memory; replaced in this order.
    """
    found = []
    for rule in rules:
        pattern = rule.pattern
        for word, other in words.items():
            pattern = pattern.replace(word, other)
        before, parts, after = pattern.partition("(query|key|value)")
        if pattern == rule.pattern:
            continue
        if not parts:
            found.append(rule._replace(pattern=pattern))
            continue
        group = before.count("(") - before.count("(?") + 1
        for part in ("query", "key", "value"):
            path = str(rule.path).replace(rf"\{group}", part)
            found.append(rule._replace(pattern=f"{before}{part[0]}_proj{after}", path=path))
    return found


def timm(perceptron: tuple[str, str] = ("fc1", "fc2")) -> list[Rule]:
    """Rules for timm's VisionTransformer; its `qkv` is query, key and value in one."""
    up, down = perceptron
    top = r"(?:|module\.)"
    name = rf"{top}blocks\.(\d+)"
    return [
        Rule(rf"{top}cls_token", "backbone/class_token"),
        Rule(rf"{top}pos_embed", "backbone/position"),
        *conv(rf"{top}patch_embed\.proj", "backbone/embed", bias=True),
        *norm(rf"{top}norm", "backbone/norm"),
        *dense(rf"{top}head", "head/out"),
        *fused(rf"{name}\.attn\.qkv", f"{BLOCK}/attention"),
        *dense(rf"{name}\.attn\.proj", f"{BLOCK}/attention/out"),
        *norm(rf"{name}\.norm([12])", rf"{BLOCK}/norm\2"),
        *dense(rf"{name}\.mlp\.{up}", f"{BLOCK}/mlp/up"),
        *dense(rf"{name}\.mlp\.{down}", f"{BLOCK}/mlp/down"),
    ]


def fused(name: str, path: str, parts: tuple[str, ...] = ("query", "key", "value"), join: str = r"\.") -> list[Rule]:
    """Rules for query, key and value of the attention at `path`, or other `parts`, stored as one dense layer."""
    count = len(parts)
    return [
        Rule(rf"{name}{join}{leaf}", tuple(f"{path}/{part}/{target}" for part in parts), then)
        for leaf, target, then in (("weight", "kernel", split(count, transposed)), ("bias", "bias", split(count)))
    ]


def original(heads: int, width: int) -> list[Rule]:
    """Rules for the `.npz` files of Google's releases, "augreg" included; attention has an axis for the heads."""
    sizes = (heads, width // heads)
    name, inner = r"Transformer/encoderblock_(\d+)", f"{BLOCK}/attention"
    attention = f"{name}/MultiHeadDotProductAttention_1"
    return [
        Rule("cls", "backbone/class_token"),
        Rule("Transformer/posembed_input/pos_embedding", "backbone/position"),
        Rule("embedding/(kernel|bias)", r"backbone/embed/\1"),
        Rule("Transformer/encoder_norm/(scale|bias)", r"backbone/norm/\1"),
        Rule("head/(kernel|bias)", r"head/out/\1"),
        Rule(f"{attention}/(query|key|value)/kernel", rf"{inner}/\2/kernel", merge_axes(1, 2, sizes)),
        Rule(f"{attention}/(query|key|value)/bias", rf"{inner}/\2/bias", merge_axes(0, 2, sizes)),
        Rule(f"{attention}/out/kernel", f"{inner}/out/kernel", merge_axes(0, 2, sizes)),
        Rule(f"{attention}/out/bias", f"{inner}/out/bias"),
        Rule(f"{name}/LayerNorm_0/(scale|bias)", rf"{BLOCK}/norm1/\2"),
        Rule(f"{name}/LayerNorm_2/(scale|bias)", rf"{BLOCK}/norm2/\2"),
        Rule(f"{name}/MlpBlock_3/Dense_0/(kernel|bias)", rf"{BLOCK}/mlp/up/\2"),
        Rule(f"{name}/MlpBlock_3/Dense_1/(kernel|bias)", rf"{BLOCK}/mlp/down/\2"),
    ]
