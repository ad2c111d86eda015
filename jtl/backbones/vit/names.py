r"""Names of vision transformers: transformers', timm's and those of the original JAX releases."""

from jtl.weights.mapping.layers import conv, dense, norm
from jtl.weights.mapping.rules import Rule
from jtl.weights.mapping.transforms import dense as transposed
from jtl.weights.mapping.transforms import merge_axes, split


def transformers(depth: int, model: str = "vit") -> list[Rule]:
    """Of transformers' ViTModel and ViTForImageClassification, or a network with the same blocks.

    Args:
      depth: number of blocks.
      model: the `model_type`, which is the prefix where there is a classifier.
    """
    top = rf"(?:{model}\.|)"
    rules = ends(top)
    for i in range(depth):
        name, path = rf"{top}encoder\.layer\.{i}", f"backbone/block{i + 1}"
        rules += attention(rf"{name}\.attention", f"{path}/attention")
        rules += norm(rf"{name}\.layernorm_before", f"{path}/norm1")
        rules += norm(rf"{name}\.layernorm_after", f"{path}/norm2")
        rules += dense(rf"{name}\.intermediate\.dense", f"{path}/mlp/up")
        rules += dense(rf"{name}\.output\.dense", f"{path}/mlp/down")
    return rules


def ends(top: str) -> list[Rule]:
    """What comes before and after the blocks, as transformers names it after the prefix `top`."""
    return [
        Rule(rf"{top}embeddings\.cls_token", "backbone/class_token"),
        Rule(rf"{top}embeddings\.position_embeddings", "backbone/position"),
        *conv(rf"{top}embeddings\.patch_embeddings\.projection", "backbone/embed", bias=True),
        *norm(rf"{top}layernorm", "backbone/norm"),
        *dense("classifier", "head/out"),
    ]


def attention(name: str, path: str) -> list[Rule]:
    """A block's attention as transformers names it."""
    rules = [rule for p in ("query", "key", "value") for rule in dense(rf"{name}\.attention\.{p}", f"{path}/{p}")]
    return [*rules, *dense(rf"{name}\.output\.dense", f"{path}/out")]


def timm(depth: int, perceptron: tuple[str, str] = ("fc1", "fc2")) -> list[Rule]:
    """Of timm's VisionTransformer; its `qkv` is query, key and value in one."""
    up, down = perceptron
    top = r"(?:|module\.)"
    rules = [
        Rule(rf"{top}cls_token", "backbone/class_token"),
        Rule(rf"{top}pos_embed", "backbone/position"),
        *conv(rf"{top}patch_embed\.proj", "backbone/embed", bias=True),
        *norm(rf"{top}norm", "backbone/norm"),
        *dense(rf"{top}head", "head/out"),
    ]
    for i in range(depth):
        name, path = rf"{top}blocks\.{i}", f"backbone/block{i + 1}"
        rules += fused(rf"{name}\.attn\.qkv", f"{path}/attention")
        rules += dense(rf"{name}\.attn\.proj", f"{path}/attention/out")
        rules += [*norm(rf"{name}\.norm1", f"{path}/norm1"), *norm(rf"{name}\.norm2", f"{path}/norm2")]
        rules += [*dense(rf"{name}\.mlp\.{up}", f"{path}/mlp/up"), *dense(rf"{name}\.mlp\.{down}", f"{path}/mlp/down")]
    return rules


def fused(name: str, path: str, parts: tuple[str, ...] = ("query", "key", "value"), join: str = r"\.") -> list[Rule]:
    """Query, key and value of the attention at `path`, or those of its `parts`, as one dense layer."""
    count = len(parts)
    return [
        Rule(rf"{name}{join}{leaf}", tuple(f"{path}/{part}/{target}" for part in parts), then)
        for leaf, target, then in (("weight", "kernel", split(count, transposed)), ("bias", "bias", split(count)))
    ]


def original(depth: int, heads: int, width: int) -> list[Rule]:
    """Of the `.npz` files of Google's releases, "augreg" among them; attention keeps an axis for the heads."""
    sizes = (heads, width // heads)
    rules = [
        Rule("cls", "backbone/class_token"),
        Rule("Transformer/posembed_input/pos_embedding", "backbone/position"),
        Rule("embedding/(kernel|bias)", r"backbone/embed/\1"),
        Rule("Transformer/encoder_norm/(scale|bias)", r"backbone/norm/\1"),
        Rule("head/(kernel|bias)", r"head/out/\1"),
    ]
    for i in range(depth):
        name, path = f"Transformer/encoderblock_{i}", f"backbone/block{i + 1}"
        attention, inner = f"{name}/MultiHeadDotProductAttention_1", f"{path}/attention"
        for part in ("query", "key", "value"):
            rules.append(Rule(f"{attention}/{part}/kernel", f"{inner}/{part}/kernel", merge_axes(1, 2, sizes)))
            rules.append(Rule(f"{attention}/{part}/bias", f"{inner}/{part}/bias", merge_axes(0, 2, sizes)))
        rules += [
            Rule(f"{attention}/out/kernel", f"{inner}/out/kernel", merge_axes(0, 2, sizes)),
            Rule(f"{attention}/out/bias", f"{inner}/out/bias"),
            Rule(f"{name}/LayerNorm_0/(scale|bias)", rf"{path}/norm1/\1"),
            Rule(f"{name}/LayerNorm_2/(scale|bias)", rf"{path}/norm2/\1"),
            Rule(f"{name}/MlpBlock_3/Dense_0/(kernel|bias)", rf"{path}/mlp/up/\1"),
            Rule(f"{name}/MlpBlock_3/Dense_1/(kernel|bias)", rf"{path}/mlp/down/\1"),
        ]
    return rules
