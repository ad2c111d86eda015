"""Names of Inception-v3: torchvision's, which are timm's too."""

from collections.abc import Sequence

from jtl.weights.mapping.inverted_residual import pair
from jtl.weights.mapping.layers import dense
from jtl.weights.mapping.rules import Rule

_STEM = ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "Conv2d_3b_1x1", "Conv2d_4a_3x3")
# The layers of each branch of a block, in the order of `jtl.backbones.inception_v3.network`.
_DOUBLE = ("branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3")
_A = (("branch1x1",), ("branch5x5_1", "branch5x5_2"), _DOUBLE, ("branch_pool",))
_B = (("branch3x3",), _DOUBLE)
_C = (
    ("branch1x1",),
    tuple(f"branch7x7_{i}" for i in range(1, 4)),
    tuple(f"branch7x7dbl_{i}" for i in range(1, 6)),
    ("branch_pool",),
)
_D = (("branch3x3_1", "branch3x3_2"), tuple(f"branch7x7x3_{i}" for i in range(1, 5)))
_E = (
    ("branch1x1",),
    ("branch3x3_1", "branch3x3_2a", "branch3x3_2b"),
    (*_DOUBLE[:2], "branch3x3dbl_3a", "branch3x3dbl_3b"),
    ("branch_pool",),
)
_STAGES = (
    {"5b": _A, "5c": _A, "5d": _A},
    {"6a": _B, "6b": _C, "6c": _C, "6d": _C, "6e": _C},
    {"7a": _D, "7b": _E, "7c": _E},
)


def torchvision(depths: Sequence[int]) -> list[Rule]:
    """Of torchvision's Inception3; its second classifier, which only training used, is left unread.

    Args:
      depths: the number of blocks of the stages 3 to 5.
    """
    rules = [*dense("fc", "head/out"), Rule(r"AuxLogits\.(?:.+)", None)]
    for i, name in enumerate(_STEM, 1):
        rules += pair(rf"{name}\.conv", rf"{name}\.bn", f"backbone/stem/conv{i}")
    for stage, (blocks, depth) in enumerate(zip(_STAGES, depths, strict=True), 3):
        for block, (mixed, branches) in enumerate(list(blocks.items())[:depth], 1):
            for branch, layers in enumerate(branches, 1):
                for layer, name in enumerate(layers, 1):
                    full = rf"Mixed_{mixed}\.{name}"
                    path = f"backbone/stage{stage}/block{block}/branch{branch}/conv{layer}"
                    rules += pair(rf"{full}\.conv", rf"{full}\.bn", path)
    return rules
