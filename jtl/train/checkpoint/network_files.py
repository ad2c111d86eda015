"""The description of a run's network, stored next to its checkpoints so that both together can be loaded."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jtl.params import flatten
from jtl.pretrained.load import Pretrained
from jtl.pretrained.save import save_description


def described_beside(directory: Path, network: Pretrained, leaves: Mapping[str, Any]) -> None:
    """Checks that the network is that of the state, and writes its description, in process 0.

    Args:
      directory: the directory of the checkpoints.
      network: the result of `jtl.load`.
      leaves: shape and type of every leaf of the state, as a manifest stores them.

    Raises:
      ValueError: for a parameter of the network that the state lacks, or has in another shape.
    """
    for path, leaf in flatten(network.variables.params).items():
        shape = leaves.get(f"params/{path}", [None])[0]
        if shape != list(np.shape(leaf)):
            there = "which the state lacks" if shape is None else f"and {tuple(shape)} in the state"
            raise ValueError(
                f"network= is not the network of this run: {path!r} has the shape {np.shape(leaf)} in it, {there}; give"
                " what jtl.load gave for this run"
            )
    if jax.process_index() == 0:
        save_description(directory, network)
