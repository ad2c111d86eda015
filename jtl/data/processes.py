"""Which of the processes that share a batch this one is."""


def processes(index: int | None, count: int | None) -> tuple[int, int]:
    """Which process this is, and how many there are: as given, or as jax says where neither is.

    Raises:
      ValueError: for one without the other, or an index that no process has.
    """
    if (index is None) != (count is None):
        raise ValueError("give process_index and process_count together, or neither")
    if index is None or count is None:
        import jax  # asked only now: a program may call jax.distributed.initialize after it made its data

        return jax.process_index(), jax.process_count()
    if not 0 <= index < count:
        raise ValueError(f"process_index is {index}; with {count} processes it must be in [0, {count})")
    return index, count
