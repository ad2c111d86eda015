r"""Names of DeiT-III: timm's."""

from jtl.backbones.vit import names
from jtl.weights.mapping.rules import Rule


def timm(depth: int) -> list[Rule]:
    """Of timm's networks, and the `.pth` files of facebookresearch/deit, which name the factors another way."""
    top = r"(?:|module\.)"
    scales = [
        Rule(rf"{top}blocks\.{i}\.(?:ls{number}\.gamma|gamma_{number})", f"backbone/block{i + 1}/scale{number}")
        for i in range(depth)
        for number in (1, 2)
    ]
    return [*names.timm(depth), *scales]
