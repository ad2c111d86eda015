"""Names of DenseNets: torchvision's, which are timm's too."""

from jtl.weights.mapping.layers import batch_norm, conv, dense
from jtl.weights.mapping.rules import Rule


def torchvision() -> list[Rule]:
    """Rules for torchvision's DenseNet; its published files have `norm.1` where the network has `norm1`."""
    step, name = r"features\.transition(\d+)", r"features\.denseblock(\d+)\.denselayer(\d+)"
    return [
        *conv(r"features\.conv0", "backbone/stem/conv"),
        *batch_norm(r"features\.norm0", "backbone/stem/norm"),
        *batch_norm(r"features\.norm5", "backbone/norm"),
        *dense("classifier", "head/out"),
        *batch_norm(rf"{step}\.norm", "backbone/stage{1+1}/down/norm"),
        *conv(rf"{step}\.conv", "backbone/stage{1+1}/down/conv"),
        *batch_norm(rf"{name}\.norm(?:|\.)([12])", r"backbone/stage\1/layer\2/norm\3"),
        *conv(rf"{name}\.conv(?:|\.)([12])", r"backbone/stage\1/layer\2/conv\3"),
    ]
