r"""Names of CLIP in OpenCLIP and in OpenAI's release, both with the two towers in one file."""

from jtl.backbones.clip.names import one_axis, two_axes
from jtl.backbones.vit.names import fused
from jtl.weights.mapping.layers import conv, dense, norm
from jtl.weights.mapping.rules import Rule


def clip() -> list[Rule]:
    """Rules for a ViT and a text transformer."""
    image, text = "backbone/image", "backbone/text"
    return [
        *conv(r"visual\.conv1", f"{image}/embed"),
        Rule(r"visual\.class_embedding", f"{image}/class_token", two_axes),
        Rule(r"visual\.positional_embedding", f"{image}/position", one_axis),
        *norm(r"visual\.ln_pre", f"{image}/first_norm"),
        *_blocks(r"visual\.", image),
        *norm(r"visual\.ln_post", f"{image}/norm"),
        Rule(r"visual\.proj", f"{image}/projection/kernel"),
        Rule(r"token_embedding\.weight", f"{text}/token"),
        Rule("positional_embedding", f"{text}/position"),
        *_blocks("", text),
        *norm("ln_final", f"{text}/norm"),
        Rule("text_projection", f"{text}/projection/kernel"),
        # Sizes, which OpenAI's files hold as tensors, and the causal mask, in early files.
        *(Rule(name, None) for name in ("input_resolution", "context_length", "vocab_size", "attn_mask")),
    ]


def _blocks(top: str, path: str) -> list[Rule]:
    name, block = rf"{top}transformer\.resblocks\.(\d+)", f"{path}/block{{1+1}}"
    return [
        *norm(rf"{name}\.ln_([12])", rf"{block}/norm\2"),
        *fused(rf"{name}\.attn\.in_proj", f"{block}/attention", join="_"),
        *dense(rf"{name}\.attn\.out_proj", f"{block}/attention/out"),
        *dense(rf"{name}\.mlp\.c_fc", f"{block}/mlp/up"),
        *dense(rf"{name}\.mlp\.c_proj", f"{block}/mlp/down"),
    ]
