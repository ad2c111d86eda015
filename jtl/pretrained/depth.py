"""Compares the number of blocks in a network's config with a file's tensors."""

import re
from collections.abc import Iterable

from jtl.backbones.family import Config, Family
from jtl.weights.formats.errors import WeightNameError

PER_TENSOR = 4  # with more blocks per tensor, the network is not even traced to list the missing ones
_BLOCK = re.compile(r".*/(?:block|layer|stage\d+/conv)\d+(?=/)")  # a stage of a VGG consists of convolutions


def blocks_of(paths: Iterable[str]) -> set[str]:
    """Returns the blocks that parameters belong to: `backbone/block1` for `backbone/block1/norm1/scale`."""
    return {found[0].removeprefix("stats/") for path in paths if (found := _BLOCK.match(path))}


def check_depth(family: Family, config: Config, tensors: int) -> None:
    """Refuses a config whose network has far more blocks than the file.

    Args:
      family: the network's family.
      config: the network's config.
      tensors: the number of tensors in the file.

    Raises:
      WeightNameError: naming both numbers.
    """
    count = family.count_blocks(config)
    if count > PER_TENSOR * (tensors + 1):
        raise WeightNameError(
            f"a {config.model_type} of {count} blocks cannot be in a file of {tensors} tensors; check how many "
            "layers the config gives it"
        )
