"""Names of DenseNets: torchvision's, which are timm's too."""

from collections.abc import Sequence

from jtl.weights.mapping.layers import batch_norm, conv, dense
from jtl.weights.mapping.rules import Rule


def torchvision(blocks: Sequence[int]) -> list[Rule]:
    """Of torchvision's DenseNet; its published files write `norm.1` where the network has `norm1`.

    Args:
      blocks: the number of layers of each.
    """
    rules = [
        *conv(r"features\.conv0", "backbone/stem/conv"),
        *batch_norm(r"features\.norm0", "backbone/stem/norm"),
        *batch_norm(r"features\.norm5", "backbone/norm"),
        *dense("classifier", "head/out"),
    ]
    for stage, layers in enumerate(blocks, 1):
        if stage > 1:
            rules += batch_norm(rf"features\.transition{stage - 1}\.norm", f"backbone/stage{stage}/down/norm")
            rules += conv(rf"features\.transition{stage - 1}\.conv", f"backbone/stage{stage}/down/conv")
        for layer in range(1, layers + 1):
            name, path = rf"features\.denseblock{stage}\.denselayer{layer}", f"backbone/stage{stage}/layer{layer}"
            for i in (1, 2):
                rules += batch_norm(rf"{name}\.norm(?:|\.){i}", f"{path}/norm{i}")
                rules += conv(rf"{name}\.conv(?:|\.){i}", f"{path}/conv{i}")
    return rules
