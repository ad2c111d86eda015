r"""The rules for one layer, under PyTorch's names for its tensors.

`name` is the layer's name as a regex; `path` the layer's path, which refers to the groups of `name` as a `Rule` does.
"""

from jtl.weights.mapping import transforms
from jtl.weights.mapping.rules import Rule


def conv(name: str, path: str, *, bias: bool = False) -> list[Rule]:
    """Rules for a convolution."""
    return [Rule(rf"{name}\.weight", f"{path}/kernel", transforms.conv), *([_bias(name, path)] if bias else [])]


def dense(name: str, path: str) -> list[Rule]:
    """Rules for a dense layer with its bias."""
    return [Rule(rf"{name}\.weight", f"{path}/kernel", transforms.dense), _bias(name, path)]


def dense_of_maps(name: str, path: str) -> list[Rule]:
    """Rules for a dense layer with its bias that is a 1x1 convolution in the file."""
    return [Rule(rf"{name}\.weight", f"{path}/kernel", transforms.pointwise()), _bias(name, path)]


def norm(name: str, path: str) -> list[Rule]:
    """Rules for a normalisation without running statistics."""
    return [Rule(rf"{name}\.weight", f"{path}/scale"), _bias(name, path)]


def batch_norm(name: str, path: str) -> list[Rule]:
    """Rules for a batch normalisation; its count of batches, which nothing uses, is not read."""
    return [
        *norm(name, path),
        Rule(rf"{name}\.running_mean", f"stats/{path}/mean"),
        Rule(rf"{name}\.running_var", f"stats/{path}/var"),
        Rule(rf"{name}\.num_batches_tracked", None),
    ]


def _bias(name: str, path: str) -> Rule:
    return Rule(rf"{name}\.bias", f"{path}/bias")
