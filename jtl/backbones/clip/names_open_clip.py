r"""Names of CLIP in OpenCLIP, and in OpenAI's release, where both towers stand side by side."""

from jtl.backbones.clip.names import one_axis, two_axes
from jtl.backbones.vit.names import fused
from jtl.weights.mapping.layers import conv, dense, norm
from jtl.weights.mapping.rules import Rule


def clip(image_depth: int, text_depth: int) -> list[Rule]:
    """Of a ViT of `image_depth` blocks and a text transformer of `text_depth`."""
    image, text = "backbone/image", "backbone/text"
    return [
        *conv(r"visual\.conv1", f"{image}/embed"),
        Rule(r"visual\.class_embedding", f"{image}/class_token", two_axes),
        Rule(r"visual\.positional_embedding", f"{image}/position", one_axis),
        *norm(r"visual\.ln_pre", f"{image}/first_norm"),
        *_blocks(image_depth, r"visual\.", image),
        *norm(r"visual\.ln_post", f"{image}/norm"),
        Rule(r"visual\.proj", f"{image}/projection/kernel"),
        Rule(r"token_embedding\.weight", f"{text}/token"),
        Rule("positional_embedding", f"{text}/position"),
        *_blocks(text_depth, "", text),
        *norm("ln_final", f"{text}/norm"),
        Rule("text_projection", f"{text}/projection/kernel"),
        # Sizes, which OpenAI's files carry as tensors, and the causal mask of early ones.
        *(Rule(name, None) for name in ("input_resolution", "context_length", "vocab_size", "attn_mask")),
    ]


def _blocks(depth: int, top: str, path: str) -> list[Rule]:
    rules = []
    for i in range(depth):
        name, block = rf"{top}transformer\.resblocks\.{i}", f"{path}/block{i + 1}"
        rules += [*norm(rf"{name}\.ln_1", f"{block}/norm1"), *norm(rf"{name}\.ln_2", f"{block}/norm2")]
        rules += fused(rf"{name}\.attn\.in_proj", f"{block}/attention", join="_")
        rules += dense(rf"{name}\.attn\.out_proj", f"{block}/attention/out")
        rules += dense(rf"{name}\.mlp\.c_fc", f"{block}/mlp/up")
        rules += dense(rf"{name}\.mlp\.c_proj", f"{block}/mlp/down")
    return rules
