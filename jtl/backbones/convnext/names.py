"""Names of ConvNeXts: transformers', timm's and torchvision's."""

from collections.abc import Callable

from jtl.weights.mapping.layers import conv, dense, dense_of_maps, norm
from jtl.weights.mapping.rules import Rule
from jtl.weights.mapping.transforms import vector

_STAGE = "backbone/stage{1+1}"
_BLOCK = _STAGE + "/block{2+1}"


def transformers() -> list[Rule]:
    """Rules for transformers' ConvNextModel and ConvNextForImageClassification."""
    top = r"(?:convnext\.|)"
    stage = rf"{top}encoder\.stages\.(\d+)"
    layer = rf"{stage}\.layers\.(\d+)"
    return [
        *conv(rf"{top}embeddings\.patch_embeddings", "backbone/stem/conv", bias=True),
        *norm(rf"{top}embeddings\.layernorm", "backbone/stem/norm"),
        *norm(rf"{top}layernorm", "backbone/norm"),
        *dense("classifier", "head/out"),
        *_down(rf"{stage}\.downsampling_layer", _STAGE),
        *_block(_BLOCK, *(rf"{layer}\.{part}" for part in ("dwconv", "layernorm", "pwconv1", "pwconv2"))),
        Rule(rf"{layer}\.layer_scale_parameter", f"{_BLOCK}/scale"),
    ]


def timm(
    conv_mlp: bool = False,
    *,
    overlap: bool = False,
    norm_first: bool = False,
    hidden: bool = False,
) -> list[Rule]:
    """Rules for timm's ConvNeXt.

    Args:
      conv_mlp: whether the blocks' dense layers are 1x1 convolutions in the file.
      overlap: whether the stem has two convolutions.
      norm_first: whether the last normalisation comes before the mean.
      hidden: whether a layer comes before the classifier.
    """
    convolutions = [(r"stem\.0", "conv1"), (r"stem\.1", "conv2")] if overlap else [(r"stem\.0", "conv")]
    stage, layer = r"stages\.(\d+)", r"stages\.(\d+)\.blocks\.(\d+)"
    parts = (rf"{layer}\.{part}" for part in ("conv_dw", "norm", r"mlp\.fc1", r"mlp\.fc2"))
    return [
        *(rule for name, path in convolutions for rule in conv(name, f"backbone/stem/{path}", bias=True)),
        *norm(rf"stem\.{len(convolutions)}", "backbone/stem/norm"),
        *norm("norm_pre" if norm_first else r"head\.norm", "backbone/norm"),
        *(dense(r"head\.pre_logits\.fc", "backbone/hidden") if hidden else []),
        *dense(r"head\.fc", "head/out"),
        *_down(rf"{stage}\.downsample", _STAGE),
        *_block(_BLOCK, *parts, mlp=dense_of_maps if conv_mlp else dense),
        Rule(rf"{layer}\.gamma", f"{_BLOCK}/scale"),
    ]


def torchvision(stages: int) -> list[Rule]:
    """Rules for torchvision's ConvNeXt, where all `stages` and the downsampling steps between them are one list."""
    rules = [
        *conv(r"features\.0\.0", "backbone/stem/conv", bias=True),
        *norm(r"features\.0\.1", "backbone/stem/norm"),
        *norm(r"classifier\.0", "backbone/norm"),
        *dense(r"classifier\.2", "head/out"),
    ]
    for stage in range(stages):
        path, layer = f"backbone/stage{stage + 1}", rf"features\.{2 * stage + 1}\.(\d+)"
        block = f"{path}/block{{1+1}}"
        rules += _down(rf"features\.{2 * stage}", path) if stage else []
        rules += _block(block, *(rf"{layer}\.block\.{part}" for part in (0, 2, 3, 5)))
        rules.append(Rule(rf"{layer}\.layer_scale", f"{block}/scale", vector(2)))
    return rules


def _down(name: str, path: str) -> list[Rule]:
    return [*norm(rf"{name}\.0", f"{path}/down/norm"), *conv(rf"{name}\.1", f"{path}/down/conv", bias=True)]


def _block(path: str, *names: str, mlp: Callable[[str, str], list[Rule]] = dense) -> list[Rule]:
    depthwise, normalisation, up, down = names
    return [
        *conv(depthwise, f"{path}/depthwise", bias=True),
        *norm(normalisation, f"{path}/norm"),
        *mlp(up, f"{path}/mlp/up"),
        *mlp(down, f"{path}/mlp/down"),
    ]
