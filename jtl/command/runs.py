"""Finds the weights in folders of runs; light, because `jtl --help` imports it."""

from pathlib import Path

from jtl.command.settings import read


def saved(run: Path) -> Path | None:
    """Returns the folder of a run's saved network, or `run` itself if it holds a described network; else None.

    A run is one of `jtl finetune`, `jtl adapt` or `jtl adapt-few`. A described network is one that `jtl.save` wrote, or
    checkpoints with their network's description (`Checkpoints(network=...)`).

    Raises:
      FileNotFoundError: if there is no such folder.
      ValueError: for an unfinished run with checkpoints, or a damaged `run.json`.
    """
    from jtl.weights.formats.orbax import holds

    run = run.expanduser()
    if not run.exists():
        raise FileNotFoundError(
            f"{str(run)!r} does not exist: give the folder of a run, which the command prints at its end, or a folder"
            " of jtl.save or jtl.Checkpoints"
        )
    if read(run) is not None:
        return run / "model"
    if holds(run / "checkpoints"):
        raise ValueError(
            f"{str(run)!r} holds a run without a saved network, because it was not finished or is a recipe's: give its"
            f" checkpoints, {str(run / 'checkpoints')!r}, or start the run again to finish it"
        )
    weights = (run / "model.safetensors").is_file() or holds(run)
    return run if weights and (run / "config.json").is_file() else None


def weights_of(given: str) -> str:
    """Returns the source to load for `--weights`: for a run's folder its saved network, else `given`.

    Raises:
      ValueError: for the folder of an unfinished run.
    """
    place = Path(given).expanduser()
    if not place.is_dir() or (place / "config.json").is_file():
        return given
    found = saved(place)
    return given if found is None else str(found)
