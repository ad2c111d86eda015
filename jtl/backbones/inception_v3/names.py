"""Names of Inception-v3: torchvision's, which are timm's too."""

from jtl.weights.mapping.inverted_residual import pair
from jtl.weights.mapping.layers import dense
from jtl.weights.mapping.rules import Rule

_STEM = ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "Conv2d_3b_1x1", "Conv2d_4a_3x3")
# The layers of each branch of a block, in the order of `jtl.backbones.inception_v3.network`: name -> number.
_ONE, _POOL = {"branch1x1": "1"}, {"branch_pool": "1"}
_DOUBLE = {r"branch3x3dbl_([123])": r"\1"}
_A = (_ONE, {r"branch5x5_([12])": r"\1"}, _DOUBLE, _POOL)
_B = ({"branch3x3": "1"}, _DOUBLE)
_C = (_ONE, {r"branch7x7_([123])": r"\1"}, {r"branch7x7dbl_([1-5])": r"\1"}, _POOL)
_D = ({r"branch3x3_([12])": r"\1"}, {r"branch7x7x3_([1-4])": r"\1"})
_E = (
    _ONE,
    {"branch3x3_1": "1", "branch3x3_2a": "2", "branch3x3_2b": "3"},
    {r"branch3x3dbl_([12])": r"\1", "branch3x3dbl_3a": "3", "branch3x3dbl_3b": "4"},
    _POOL,
)
_STAGES = (
    {"5b": _A, "5c": _A, "5d": _A},
    {"6a": _B, "6b": _C, "6c": _C, "6d": _C, "6e": _C},
    {"7a": _D, "7b": _E, "7c": _E},
)


def torchvision() -> list[Rule]:
    """Rules for torchvision's Inception3; its auxiliary classifier, used in training only, is not read."""
    rules = [*dense("fc", "head/out"), Rule(r"AuxLogits\.(?:.+)", None)]
    for i, name in enumerate(_STEM, 1):
        rules += pair(rf"{name}\.conv", rf"{name}\.bn", f"backbone/stem/conv{i}")
    for stage, blocks in enumerate(_STAGES, 3):
        for block, (mixed, branches) in enumerate(blocks.items(), 1):
            for branch, layers in enumerate(branches, 1):
                for name, number in layers.items():
                    full = rf"Mixed_{mixed}\.{name}"
                    path = f"backbone/stage{stage}/block{block}/branch{branch}/conv{number}"
                    rules += pair(rf"{full}\.conv", rf"{full}\.bn", path)
    return rules
