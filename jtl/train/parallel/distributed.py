"""Several processes as one program."""

import jax

from jtl.checked import whole


def initialize(coordinator: str | None = None, processes: int | None = None, process: int | None = None) -> None:
    """Joins this process with the others; call it before anything else uses jax.

    Afterwards `jax.devices()` are the devices of all processes, meshes span them, and each process loads its own slice
    of each batch. On Slurm, on TPU pods and on other clusters that jax knows, call it without arguments. On CPUs the
    processes communicate through gloo.

    Args:
      coordinator: "host:port" of process 0, reachable from all processes.
      processes: the number of processes.
      process: the number of this process, from 0.

    Raises:
      ValueError: for some but not all arguments, a process number out of range, or an address without a port.
      RuntimeError: if jax was used before, or the others cannot be reached.

    Example:
      >>> import jtl
      >>> jtl.distributed.initialize("10.0.0.1:8476", processes=2, process=0)  # doctest: +SKIP
    """
    given = (coordinator, processes, process)
    if any(value is None for value in given) and any(value is not None for value in given):
        raise ValueError(
            f"coordinator={coordinator!r}, processes={processes}, process={process}: give all three,"
            " or none on a cluster that jax knows"
        )
    if processes is not None and process is not None:
        whole(1, processes=processes)
        whole(0, process=process)
        if process >= processes:
            raise ValueError(f"process={process} of processes={processes}: it lies from 0 to {processes - 1}")
    if coordinator is not None and not coordinator.rpartition(":")[2].isdigit():
        raise ValueError(f"coordinator={coordinator!r}: 'host:port', as '10.0.0.1:8476'")
    if jax.distributed.is_initialized():
        raise RuntimeError("jtl.train.parallel.distributed.initialize() was called before: once per process")
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    try:
        jax.distributed.initialize(coordinator, processes, process)
    except (RuntimeError, ValueError) as error:
        raise RuntimeError(
            f"could not join the other processes (coordinator={coordinator!r}): {error}. Call initialize()"
            " before any other use of jax; without a cluster that jax knows give all three arguments"
        ) from error
