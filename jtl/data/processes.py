"""The index of this process among those that share a batch."""

from typing import Any

from jtl.checked import whole


def processes(index: int | None, count: int | None) -> tuple[int, int]:
    """The index of this process and the number of processes: as given, or jax's if neither is given.

    Raises:
      ValueError: for one without the other, a number that is not an integer, or an index that no process has.
    """
    if (index is None) != (count is None):
        raise ValueError("give process_index and process_count together, or neither")
    if index is None or count is None:
        import jax  # asked only now: a program may call jax.distributed.initialize after it made its data

        return jax.process_index(), jax.process_count()
    whole(0, process_index=index)
    whole(1, process_count=count)
    if index >= count:
        raise ValueError(f"process_index is {index}; with {count} processes it must be in [0, {count})")
    return index, count


def shared(data: Any) -> bool:
    """Whether a batch of a data set is one process's share of the rows; False if the data set does not tell.

    For a data set made of others, such as pairs of domains, its `parts` tell.
    """
    if hasattr(data, "process_count"):
        return processes(data.process_index, data.process_count)[1] > 1
    return any(shared(part) for part in getattr(data, "parts", ()))
