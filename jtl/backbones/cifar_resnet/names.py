"""Names of the CIFAR ResNets: akamaster's `pytorch_resnet_cifar10`."""

from jtl.weights.mapping.layers import batch_norm, conv, dense
from jtl.weights.mapping.rules import Rule


def akamaster(depth: int) -> list[Rule]:
    """The published `.th` files; they were saved from a `DataParallel`, hence `module.`."""
    top = r"(?:module\.|)"
    rules = [*conv(rf"{top}conv1", "backbone/stem/conv"), *batch_norm(rf"{top}bn1", "backbone/stem/norm")]
    for stage in (1, 2, 3):
        for block in range((depth - 2) // 6):
            name, path = rf"{top}layer{stage}\.{block}", f"backbone/stage{stage}/block{block + 1}"
            for i in (1, 2):
                rules += conv(rf"{name}\.conv{i}", f"{path}/conv{i}")
                rules += batch_norm(rf"{name}\.bn{i}", f"{path}/norm{i}")
    return [*rules, *dense(rf"{top}linear", "head/out")]
