"""Names of the CIFAR ResNets: akamaster's `pytorch_resnet_cifar10`."""

from jtl.weights.mapping.layers import batch_norm, conv, dense
from jtl.weights.mapping.rules import Rule


def akamaster() -> list[Rule]:
    """Rules for the published `.th` files, which were saved from a `DataParallel`, hence `module.`."""
    top = r"(?:module\.|)"
    name, path = rf"{top}layer(\d+)\.(\d+)", r"backbone/stage\1/block{2+1}"
    return [
        *conv(rf"{top}conv1", "backbone/stem/conv"),
        *batch_norm(rf"{top}bn1", "backbone/stem/norm"),
        *conv(rf"{name}\.conv([12])", rf"{path}/conv\3"),
        *batch_norm(rf"{name}\.bn([12])", rf"{path}/norm\3"),
        *dense(rf"{top}linear", "head/out"),
    ]
