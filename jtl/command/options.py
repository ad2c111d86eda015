"""The options of a recipe, as a shell passes them."""

import dataclasses
from pathlib import Path
from typing import Any

from jtl.paths import local


def expanded(recipe: Any) -> Any:
    """Returns the recipe with ~ in its paths expanded, because a shell does not expand it in --out=~/runs."""
    if not dataclasses.is_dataclass(recipe) or isinstance(recipe, type):
        return recipe
    given = {field.name: getattr(recipe, field.name) for field in dataclasses.fields(recipe)}
    paths = {name: local(value, f"--{name}") for name, value in given.items() if isinstance(value, Path)}
    changed = {name: path for name, path in paths.items() if path != given[name]}
    return dataclasses.replace(recipe, **changed) if changed else recipe
