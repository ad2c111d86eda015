"""Names of MobileNetV2: transformers', torchvision's and timm's."""

from collections.abc import Sequence

from jtl.weights.mapping import inverted_residual
from jtl.weights.mapping.inverted_residual import Parts, one_of
from jtl.weights.mapping.layers import batch_norm, conv, dense
from jtl.weights.mapping.rules import Rule

BLOCKS = 17


def transformers() -> list[Rule]:
    """Rules for transformers' MobileNetV2Model and MobileNetV2ForImageClassification; the stem has the first block."""
    top = r"(?:mobilenet_v2\.|)"
    layers = {rf"{top}conv_stem\.first_conv": "stem", rf"{top}conv_1x1": "top"}
    for name, part in {"expand_1x1": "expand", "conv_3x3": "depthwise", "reduce_1x1": "project"}.items():
        layers |= {rf"{top}conv_stem\.{name}": f"block1/{part}", rf"{top}layer\.(\d+)\.{name}": f"block{{1+2}}/{part}"}
    rules = dense("classifier", "head/out")
    for name, path in layers.items():
        rules += conv(rf"{name}\.convolution", f"backbone/{path}/conv")
        rules += batch_norm(rf"{name}\.normalization", f"backbone/{path}/norm")
    return rules


def torchvision() -> list[Rule]:
    """Rules for torchvision's MobileNetV2, whose blocks are lists; the first has no expansion."""
    block = rf"features\.{one_of(range(2, BLOCKS + 1))}\.conv"
    layers = {
        "stem": (r"features\.0\.0", r"features\.0\.1"),
        "block1/depthwise": (r"features\.1\.conv\.0\.0", r"features\.1\.conv\.0\.1"),
        "block1/project": (r"features\.1\.conv\.1", r"features\.1\.conv\.2"),
        r"block\1/expand": (rf"{block}\.0\.0", rf"{block}\.0\.1"),
        r"block\1/depthwise": (rf"{block}\.1\.0", rf"{block}\.1\.1"),
        r"block\1/project": (rf"{block}\.2", rf"{block}\.3"),
        "top": (rf"features\.{BLOCKS + 1}\.0", rf"features\.{BLOCKS + 1}\.1"),
    }
    rules = dense(r"classifier\.1", "head/out")
    for path, (convolution, norm) in layers.items():
        rules += [*conv(convolution, f"backbone/{path}/conv"), *batch_norm(norm, f"backbone/{path}/norm")]
    return rules


def timm(repeats: Sequence[int]) -> list[Rule]:
    """Rules for timm's EfficientNet, given the blocks of each stage; those of the first do not expand."""
    return inverted_residual.efficientnet([[Parts(stage > 0, False)] * count for stage, count in enumerate(repeats)])
