r"""Names of CLIP's and SigLIP's towers in transformers, alone and together."""

import numpy as np

from jtl.weights.mapping.layers import conv, dense, norm
from jtl.weights.mapping.rules import Rule
from jtl.weights.mapping.transforms import Transform, split
from jtl.weights.mapping.transforms import dense as transposed


def clip_image(path: str, top: str) -> list[Rule]:
    """Rules for CLIPVisionModel and CLIPVisionModelWithProjection.

    Args:
      path: path of the tower's parameters.
      top: prefix of the names, as a regex without groups other than `(?:...)`.
    """
    return [
        *_image(path, top),
        Rule(rf"{top}embeddings\.class_embedding", f"{path}/class_token", two_axes),
        *norm(rf"{top}pre_layrnorm", f"{path}/first_norm"),
        *norm(rf"{top}post_layernorm", f"{path}/norm"),
        Rule(r"visual_projection\.weight", f"{path}/projection/kernel", transposed),
    ]


def siglip_image(path: str, top: str) -> list[Rule]:
    """Rules for SiglipVisionModel; arguments as for `clip_image`."""
    pool, query = rf"{top}head", f"{path}/pool"
    rules = [*_image(path, top), *norm(rf"{top}post_layernorm", f"{path}/norm")]
    rules += [Rule(rf"{pool}\.probe", f"{query}/query"), *norm(rf"{pool}\.layernorm", f"{query}/norm")]
    for leaf, target, then in (("weight", "kernel", split(3, transposed)), ("bias", "bias", split(3))):
        paths = tuple(f"{query}/attention/{part}/{target}" for part in ("query", "key", "value"))
        rules.append(Rule(rf"{pool}\.attention\.in_proj_{leaf}", paths, then))
    rules += dense(rf"{pool}\.attention\.out_proj", f"{query}/attention/out")
    return [*rules, *dense(rf"{pool}\.mlp\.fc1", f"{query}/mlp/up"), *dense(rf"{pool}\.mlp\.fc2", f"{query}/mlp/down")]


def clip_text(path: str, top: str) -> list[Rule]:
    """Rules for CLIPTextModel and CLIPTextModelWithProjection; arguments as for `clip_image`."""
    projection = Rule(r"text_projection\.weight", f"{path}/projection/kernel", transposed)
    return [*_text(path, top), projection]


def siglip_text(path: str, top: str) -> list[Rule]:
    """Rules for SiglipTextModel; arguments as for `clip_image`."""
    return [*_text(path, top), *dense(rf"{top}head", f"{path}/projection")]


def scale() -> list[Rule]:
    """Rules for the scale and the bias, if any, that turn two towers' cosines into logits."""
    return [
        Rule("logit_scale", "backbone/log_scale"),
        Rule("logit_bias", "backbone/bias"),
    ]


def scale_of_siglip() -> list[Rule]:
    """The rules of `scale` for SigLIP, which stores both numbers with an axis."""
    return [rule._replace(transform=no_axis) for rule in scale()]


def _image(path: str, top: str) -> list[Rule]:
    return [
        *conv(rf"{top}embeddings\.patch_embedding", f"{path}/embed", bias=True),
        Rule(rf"{top}embeddings\.position_embedding\.weight", f"{path}/position", one_axis),
        Rule(rf"{top}embeddings\.position_ids", None),
        *_blocks(path, top),
    ]


def _text(path: str, top: str) -> list[Rule]:
    return [
        Rule(rf"{top}embeddings\.token_embedding\.weight", f"{path}/token"),
        Rule(rf"{top}embeddings\.position_embedding\.weight", f"{path}/position"),
        Rule(rf"{top}embeddings\.position_ids", None),
        *norm(rf"{top}final_layer_norm", f"{path}/norm"),
        *_blocks(path, top),
    ]


def _blocks(path: str, top: str) -> list[Rule]:
    name, block = rf"{top}encoder\.layers\.(\d+)", f"{path}/block{{1+1}}"
    parts = (("q_proj", "query"), ("k_proj", "key"), ("v_proj", "value"), ("out_proj", "out"))
    return [
        *(rule for p, target in parts for rule in dense(rf"{name}\.self_attn\.{p}", f"{block}/attention/{target}")),
        *norm(rf"{name}\.layer_norm([12])", rf"{block}/norm\2"),
        *dense(rf"{name}\.mlp\.fc1", f"{block}/mlp/up"),
        *dense(rf"{name}\.mlp\.fc2", f"{block}/mlp/down"),
    ]


def _only(x: np.ndarray) -> np.ndarray:
    if x.shape != (1,):
        raise ValueError(f"expected one number of shape (1,), got {x.shape}")
    return x.reshape(())


one_axis = Transform("[n,d] -> [1,n,d]", lambda x: x[None], lambda x: x[0])
two_axes = Transform("[d] -> [1,1,d]", lambda x: x[None, None], lambda x: x[0, 0])
no_axis = Transform("[1] -> []", _only, lambda x: x.reshape(1))
