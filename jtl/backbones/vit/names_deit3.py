r"""Names of DeiT-III: timm's."""

from jtl.backbones.vit import names
from jtl.weights.mapping.rules import Rule


def timm() -> list[Rule]:
    """Rules for timm's networks and the `.pth` files of facebookresearch/deit, which name the factors differently."""
    block, path = r"(?:|module\.)blocks\.(\d+)", rf"{names.BLOCK}/scale\2"
    return [*names.timm(), Rule(rf"{block}\.ls([12])\.gamma", path), Rule(rf"{block}\.gamma_([12])", path)]
