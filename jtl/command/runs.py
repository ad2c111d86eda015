"""Finds the weights in folders of runs; light, because `jtl --help` imports it."""

from pathlib import Path

from jtl.command.settings import DONE, read

SHOWN = 5
"""The most runs that a message lists."""


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


def refuse_no_run(place: Path) -> None:
    """Refuses a path that holds no checkpoints itself, such as the folder of several runs, or a file of a run.

    Raises:
      FileNotFoundError: naming the runs within the folder, or the run that it belongs to.
    """
    from jtl.weights.formats.orbax import holds, newest

    place = place.expanduser()
    if holds(place):
        return
    part = place.is_file() or newest(place) is not None  # a report, or a single checkpoint
    near = [place.parent] if part else sorted(entry for entry in place.iterdir() if entry.is_dir())
    runs = [found for run in near for found in (run, run / "checkpoints") if holds(found) or (found / DONE).is_file()]
    hint = f": give {' or '.join(repr(str(run)) for run in runs[:SHOWN])}{' or ...' * (len(runs) > SHOWN)}"
    what = "a part of a run" if part and runs else "no run, no network that jtl.save wrote, and no checkpoints of a run"
    raise FileNotFoundError(f"{str(place)!r} is {what}{hint if runs else ''}")


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
