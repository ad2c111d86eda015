"""Reads the prompts that networks of sentence-transformers, such as E5 and BGE, expect before a text."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jtl.weights.formats.errors import show
from jtl.weights.formats.hub import PROMPTS
from jtl.weights.formats.json import read_json


class Prompt(NamedTuple):
    """A prompt before every text.

    Args:
      text: the prompt; "" for none.
      counted: whether its tokens are pooled into the embedding; else the network sees them, but they are not pooled.
    """

    text: str = ""
    counted: bool = True


def read_prompt(folder: Path, name: str | None) -> Prompt:
    """Reads one of the prompts in a folder's `config_sentence_transformers.json`, like `encode`.

    Args:
      folder: the folder, which need not have such a file.
      name: the name of the prompt; None for the `default_prompt_name`, "" for none.

    Raises:
      ValueError: for a name that is not in the file, or a damaged file.
    """
    path = folder / PROMPTS
    told = read_json(path, dict) or {}
    prompts = told.get("prompts") or {}
    if not isinstance(prompts, Mapping) or not all(isinstance(text, str) for text in prompts.values()):
        raise ValueError(f"{path}: prompts={show(str(prompts))}: give names and texts")
    asked = told.get("default_prompt_name") if name is None else name
    if asked is None or name == "":
        return Prompt()
    if not isinstance(asked, str) or asked not in prompts:
        raise ValueError(f"{path}: there is no prompt {show(asked)}; there are {sorted(prompts)}")
    return Prompt(prompts[asked], all(_counted(folder, row) for row in read_json(folder / "modules.json", list) or ()))


def _counted(folder: Path, row: Any) -> bool:
    place = row.get("path") if isinstance(row, Mapping) else None
    if not isinstance(place, str) or not str(row.get("type")).endswith("Pooling") or ".." in place:
        return True
    found = (read_json(folder / place / "config.json", dict) or {}).get("include_prompt", True)
    if not isinstance(found, bool):
        raise ValueError(f"{folder / place / 'config.json'}: include_prompt={show(found)}: give true or false")
    return found
