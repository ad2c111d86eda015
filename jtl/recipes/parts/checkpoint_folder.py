"""The folder of a recipe's one checkpoint, which a run replaces."""

import shlex
from pathlib import Path
from typing import Any

from jtl.replace import replace_folder
from jtl.train.checkpoint import manifest
from jtl.train.checkpoint.checkpoints import Checkpoints


def check_own(folder: Path, name: str) -> bool:
    """Whether a folder holds checkpoints of this recipe, which a new run may replace.

    Args:
      folder: the folder, which need not exist.
      name: the name of the recipe.

    Raises:
      FileExistsError: if it holds checkpoints of another run.
    """
    saved = Checkpoints(folder)
    for step in saved.steps():
        recipe = str(manifest.read(saved.path(step))["recipe"])
        if shlex.split(recipe)[:3] != ["jtl", "train", name]:
            by = f"of `{recipe}`" if recipe else "that no recipe wrote"
            raise FileExistsError(f"{folder} holds a checkpoint {by}, which this run would replace; give another --out")
    return bool(saved.steps())


def replace_checkpoint(folder: Path, state: Any, recipe: str) -> None:
    """Saves a state as the folder's only checkpoint; earlier ones are removed once it is written.

    Raises:
      FileExistsError: as in `check_own`.
    """
    check_own(folder, shlex.split(recipe)[2])
    stale = [path.name for path in folder.glob("*_*") if path.name.startswith(("step_", "frozen_"))]

    def fill(place: Path) -> None:
        with Checkpoints(place, keep=1, recipe=recipe) as checkpoints:
            checkpoints.save(state)

    replace_folder(folder.resolve(), fill, stale)
