"""Folders of runs as weights; light, because `jtl --help` reads it."""

from pathlib import Path

from jtl.command.settings import read


def saved(run: Path) -> Path | None:
    """The saved network of a run of `jtl finetune` or `jtl adapt`, or of a folder of weights; None for anything else.

    That is one that `jtl.save` wrote, or checkpoints beside their network's description (`Checkpoints(network=...)`).

    Raises:
      FileNotFoundError: where there is no such folder.
      ValueError: for a run that has checkpoints and is not finished, or whose `run.json` is damaged.
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
    """What to load for `--weights`: of a run's folder its saved network, else what is given.

    Raises:
      ValueError: for the folder of a run that is not finished.
    """
    place = Path(given).expanduser()
    if not place.is_dir() or (place / "config.json").is_file():
        return given
    found = saved(place)
    return given if found is None else str(found)
