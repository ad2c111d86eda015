"""Runs a recipe as `jtl train` would, and writes its results to `results/`.

    python benchmarks/recipes.py digits
    JTL_DATA=FOLDER python benchmarks/recipes.py omniglot_maml:long --stage.steps 20000

All of its options may follow its name; text after a colon is added to the name of the file. It exits with 1 if a claim
of the recipe does not hold.
"""

import importlib
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import tyro

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import tables
from benchmarks.measure import environment
from jtl.recipes.parts.base import command


def main(argv: list[str]) -> int:
    """Runs the recipe that the first word names, with the options that follow it."""
    if len(argv) < 2:
        sys.exit("which recipe? python benchmarks/recipes.py NAME [--option value ...]")
    name, _, variant = argv[1].partition(":")
    options = argv[2:]
    recipe: Any = tyro.cli(importlib.import_module(f"jtl.recipes.{name}").Recipe, args=options)
    where = environment(argv)
    began = time.monotonic()
    found = recipe.train()
    failed = found.pop("failed")
    text = command(name, replace(recipe, out=type(recipe)().out))  # without the output folder, which is of no interest
    results = {
        "benchmark": "recipe",
        "environment": where | {"command": text},
        "minutes": round((time.monotonic() - began) / 60, 1),
        "failed": failed,
        "rows": rows(found),
    }
    file = "_".join(("recipe", name, *filter(None, [variant])))
    tables.write(results, ROOT / "benchmarks" / "results" / f"{file}-{where['backend']}.json")
    for picture in (recipe.out / "demo.png", recipe.out / "features.png"):  # those that the docs show
        if name == "digits" and picture.exists():
            shutil.copy(picture, ROOT / "docs" / "images")
    print(*(f"not as claimed: {claim}" for claim in failed), sep="\n", end="")
    return 1 if failed else 0


def rows(found: dict[str, Any], path: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """Flattens nested results: `way` is the path of names to a number, or to the numbers of several seeds."""
    flat: list[dict[str, Any]] = []
    for name, value in found.items():
        at = (*path, name)
        if isinstance(value, dict) and "seeds" not in value:
            flat += rows(value, at)
        elif isinstance(value, dict):
            flat.append({"way": at, **value})
        else:
            flat.append({"way": at, "mean": float(value)})
    return flat


if __name__ == "__main__":
    sys.exit(main(sys.argv))
