"""The devices that a run trains on, and the error of a device that runs out of memory."""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh

from jtl.train import mesh


def training_mesh(batch: int, devices: int | None, say: Callable[[str], Any]) -> Mesh:
    """Returns a mesh of the first devices of this machine, each of which trains on an equal part of a batch.

    Args:
      batch: examples per step, of each domain.
      devices: the number of devices; None for the choice of `number_of`.
      say: is called with the number of devices in use if the machine has several.

    Raises:
      ValueError: for a number that the machine does not have, or that does not divide the batch.
    """
    there = jax.devices()
    count = number_of(batch, len(there), there[0].platform, devices)
    if len(there) > 1:
        say(f"{count} of {len(there)} devices train, with {batch // count} of {batch} examples per step on each")
    return mesh(devices=there[:count])


def number_of(batch: int, there: int, platform: str, devices: int | None = None) -> int:
    """Returns how many devices train: as many accelerators as divide the batch, or one CPU device.

    The devices of one CPU share its cores, so several of them are used only on request.

    Args:
      batch: examples per step.
      there: the number of devices of the machine.
      platform: their kind, as jax names it.
      devices: the requested number; None for the default.

    Raises:
      ValueError: for a number that the machine does not have, or that does not divide the batch.

    Example:
      >>> from jtl.command.device import number_of
      >>> number_of(32, 8, "gpu"), number_of(20, 8, "gpu"), number_of(32, 8, "cpu")
      (8, 5, 1)
    """
    divide = [n for n in range(1, there + 1) if batch % n == 0]
    if devices is not None and devices not in divide:
        raise ValueError(
            f"devices={devices}: a batch of {batch} examples on {there} devices can be split over"
            f" {', '.join(map(str, divide))}; give one of these, or another batch"
        )
    return devices or (1 if platform == "cpu" else divide[-1])


def out_of_memory(error: BaseException) -> bool:
    """Returns whether the error says that a device or the machine ran out of memory.

    Example:
      >>> from jtl.command.device import out_of_memory
      >>> out_of_memory(ValueError("no")), out_of_memory(MemoryError())
      (False, True)
    """
    full = isinstance(error, jax.errors.JaxRuntimeError) and str(error).startswith("RESOURCE_EXHAUSTED")
    return full or isinstance(error, MemoryError)


def smaller(error: BaseException) -> str:
    """Returns a message on how to use less memory, with the first line of the error's own."""
    first = str(error).strip().partition("\n")[0]
    if isinstance(error, MemoryError):  # of Python or NumPy, for what a command reads at once
        return (
            "the machine has too little memory: give fewer examples, as a part of the table or folder, or a smaller"
            f" --size for images, if the command has it{f'; the error says: {first}' if first else ''}"
        )
    return (
        "the device has too little memory: give a smaller --batch, or --size for images, if the command has them, or"
        f" set JAX_PLATFORMS=cpu for the machine's own; jax says: {first}"
    )
