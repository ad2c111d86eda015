"""How many blocks a network has, by its config and by a file's parameters."""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from jtl.backbones.config import Config
from jtl.backbones.mobilenet_v2 import network as mobilenet_v2
from jtl.backbones.mobilenet_v3 import network as mobilenet_v3
from jtl.weights.formats.errors import WeightNameError

PER_TENSOR = 4  # so many blocks for each tensor, and the network is not even traced to list what is missing
# The entries by which configs count blocks, the first that is there; `num_layers` of a Swin counts its `depths`.
_ENTRIES = ("depths", "num_block_repeats", "num_hidden_layers", "n_layers", "n_layer", "encoder_layers", "num_layers")
_TOWERS = ("vision_config", "text_config")
_OTHERWISE: dict[str, Callable[[Mapping[str, Any]], int]] = {  # of the families that count another way
    "cifar_resnet": lambda config: (config["depth"] - 2) // 2,  # of two convolutions, beside the first and the head
    "mobilenet_v2": lambda config: sum(mobilenet_v2.repeats(config["depth_coefficient"])),
    "mobilenet_v3": lambda config: len(mobilenet_v3.ROWS[config["size"]]),
}
_BLOCK = re.compile(r".*/(?:block|layer|stage\d+/conv)\d+(?=/)")  # a stage of a VGG is of convolutions


def blocks(config: Mapping[str, Any]) -> int:
    """The number of blocks by the entries of a config, those of two towers together; 0 of a network without blocks.

    Example:
      >>> blocks({"model_type": "resnet", "depths": [3, 4, 6, 3]})
      16
    """
    if any(tower in config for tower in _TOWERS):
        return sum(blocks(config[tower]) for tower in _TOWERS)
    if config["model_type"] in _OTHERWISE:
        return _OTHERWISE[config["model_type"]](config)
    found = next((config[name] for name in _ENTRIES if name in config), 0)
    each = found if isinstance(found, (list, tuple)) else [found]
    return sum(math.ceil(count * config.get("depth_coefficient", 1)) for count in each)


def blocks_of(paths: Iterable[str]) -> set[str]:
    """The paths of the blocks that parameters belong to: `backbone/block1` of `backbone/block1/norm1/scale`."""
    return {found[0].removeprefix("stats/") for path in paths if (found := _BLOCK.match(path))}


def check_depth(config: Config, tensors: int) -> None:
    """Refuses a network that is out of all proportion to a file.

    Args:
      config: of the network.
      tensors: how many the file has.

    Raises:
      WeightNameError: naming both numbers.
    """
    count = blocks(config.to_dict())
    if count > PER_TENSOR * (tensors + 1):
        raise WeightNameError(
            f"a {config.model_type} of {count} blocks cannot be in a file of {tensors} tensors; check how many "
            "layers the config gives it"
        )
