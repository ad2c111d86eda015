r"""Names of DINOv2: transformers', timm's and those of its own release."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jtl.backbones.vit import names
from jtl.weights.mapping.layers import dense, norm
from jtl.weights.mapping.rules import Rule
from jtl.weights.mapping.transforms import Transform


def transformers(model: str, swiglu: bool) -> list[Rule]:
    """Rules for transformers' Dinov2Model and Dinov2ForImageClassification, and those with registers.

    Args:
      model: the `model_type`, which is the prefix if there is a classifier.
      swiglu: whether the MLPs are gated.
    """
    up, down = ("weights_in", "weights_out") if swiglu else ("fc1", "fc2")
    top = rf"(?:{model}\.|)"
    name, path = rf"{top}encoder\.layer\.(\d+)", names.BLOCK
    attention = names.attention(rf"{name}\.attention", f"{path}/attention")
    return [
        *names.ends(top),
        Rule(rf"{top}embeddings\.mask_token", "backbone/mask_token"),
        Rule(rf"{top}embeddings\.register_tokens", "backbone/registers"),
        *attention,
        *names.in_memory(attention, names.MEMORY),
        *norm(rf"{name}\.norm([12])", rf"{path}/norm\2"),
        Rule(rf"{name}\.layer_scale([12])\.lambda1", rf"{path}/scale\2"),
        *dense(rf"{name}\.mlp\.{up}", f"{path}/mlp/up"),
        *dense(rf"{name}\.mlp\.{down}", f"{path}/mlp/down"),
    ]


def timm(registers: bool) -> list[Rule]:
    """Rules for timm's networks; with registers their class token includes its position embedding."""
    rules = [
        rule._replace(transform=no_class) if registers and rule.path == "backbone/position" else rule
        for rule in names.timm()
    ]
    return [*rules, _SCALES, Rule("reg_token", "backbone/registers")]


def original(swiglu: bool) -> list[Rule]:
    """Rules for `.pth` files of facebookresearch/dinov2: as timm's, except for the tokens and gated MLPs."""
    tokens = [Rule("mask_token", "backbone/mask_token"), Rule("register_tokens", "backbone/registers")]
    words = ("w12", "w3") if swiglu else ("fc1", "fc2")
    return [*names.timm(words), _SCALES, *tokens]


_SCALES = Rule(r"blocks\.(\d+)\.ls([12])\.gamma", rf"{names.BLOCK}/scale\2")


def _with_class(x: np.ndarray) -> np.ndarray:
    if x.ndim != 3:
        raise ValueError(f"expected [1, patches, width], got {x.shape}")
    return np.concatenate([np.zeros_like(x[:, :1]), x], 1)


def _without_class(x: np.ndarray) -> np.ndarray:
    if x[:, 0].any():
        raise ValueError("the class token's position embedding is not zero, and timm's network has none")
    return x[:, 1:]


no_class = Transform("[1,n,d] -> [1,1+n,d]", _with_class, _without_class)
"""Position embeddings of the patches alone."""


def carried(params: Mapping[str, Any], table: Sequence[Rule]) -> Mapping[str, Any]:
    """Adds the class token's position to the token, for a table in which the class token has no position.

    Args:
      params: parameters with the part `backbone`.
      table: name table of any family.
    """
    if not any(rule.transform is no_class for rule in table):
        return params
    body = params["backbone"]
    first, rest = np.split(np.asarray(body["position"]), [1], 1)
    if not first.any():
        return params
    position = np.concatenate([np.zeros_like(first), rest], 1)
    return {**params, "backbone": {**body, "position": position, "class_token": body["class_token"] + first}}
