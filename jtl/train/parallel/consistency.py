"""Checks that processes agree: if they did not, their copies would diverge, or they would hang."""

import zlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from jtl.data.processes import shared


def agree(mesh: Mesh, what: str, numbers: Mapping[str, int]) -> None:
    """Compares numbers of all processes, which call this together.

    Args:
      mesh: the mesh of the run; if it does not span all processes, each runs on its own and nothing is compared.
      what: the beginning of the error message, before the name and the processes' numbers.
      numbers: numbers in [0, 2³²), equally many in each process.

    Raises:
      ValueError: in every process, naming the first number that differs.
    """
    if not _together(mesh):
        return
    with jax.transfer_guard("allow"):
        found = multihost_utils.process_allgather(np.array(list(numbers.values()), np.uint32))
    for name, each in zip(numbers, np.asarray(found).T, strict=True):
        if (each != each[0]).any():
            raise ValueError(f"{what}: {name} is {each.tolist()} in processes 0 to {len(each) - 1}")


def summed(mesh: Mesh, numbers: np.ndarray) -> np.ndarray:
    """The sum of an array of uint32 over all processes, modulo 2³²; the array itself if the mesh does not span them."""
    if not _together(mesh):
        return numbers
    with jax.transfer_guard("allow"):
        found = multihost_utils.process_allgather(numbers)
    return np.asarray(found).sum(0, dtype=np.uint32)


def sees_all(mesh: Mesh, data: Any) -> None:
    """Checks that a run in one process alone is not given only that process's share of the rows.

    Raises:
      ValueError: for data that processes share, and a mesh that does not span all processes.
    """
    count = jax.process_count()
    if count > 1 and not _together(mesh) and shared(data):
        raise ValueError(
            f"these data give each of {count} processes its share of the rows, and the mesh does not span all of them:"
            " give mesh=jtl.mesh(), or data with process_index=0, process_count=1"
        )


def _together(mesh: Mesh) -> bool:
    if jax.process_count() == 1:
        return False
    return len({device.process_index for device in mesh.devices.flat}) == jax.process_count()


def checksums(leaves: Mapping[str, Any]) -> dict[str, int]:
    """A checksum of each array that lies in this process alone; arrays that span processes cannot differ."""
    if jax.process_count() == 1:
        return {}
    raw = {
        path: jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
        for path, leaf in leaves.items()
        if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable
    }
    return {path: zlib.crc32(np.ascontiguousarray(np.asarray(leaf)).tobytes()) for path, leaf in raw.items()}
