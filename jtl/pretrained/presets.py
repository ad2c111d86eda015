"""Lists the named networks of a family, and finds the name of a network."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

from jtl.backbones.registry import Config, Family
from jtl.weights.mapping.rules import Rule

OWN = "jtl"
"""The naming scheme of jtl's own files: the paths themselves."""

_FREE = ({"img_size": "image_size"}, {"in_chans": "num_channels"})  # timm's names of options that any network has


def tables(family: Family, config: Config) -> dict[str, Sequence[Rule]]:
    """Returns the family's name tables, and jtl's own."""
    own = [Rule(rf"{part}/(.+)", rf"{part}/\1") for part in ("backbone", "head", "stats")]
    return {**family.tables(config), OWN: own}


def presets(family: Family) -> list[str]:
    """Returns the names that the family lists: `vit_{tiny,small}_patch{16,...}` expanded, without those with "..."."""
    found = []
    for pattern in re.split(r",\s*(?![^{]*\})", family.names):
        found += [name for name in _alternatives(pattern) if "..." not in name and family.named(name, {}) is not None]
    return found


def _alternatives(pattern: str) -> Iterator[str]:
    brace = re.search(r"\{([^{}]*)\}", pattern)
    if brace is None:
        yield pattern
        return
    for choice in brace[1].split(","):
        yield from _alternatives(pattern[: brace.start()] + choice.strip() + pattern[brace.end() :])


def architecture(family: Family, config: Config, naming: str) -> tuple[str, dict[str, Any]]:
    """Returns a network's name and timm's `model_args`, from which it can be rebuilt.

    Args:
      family: the network's family.
      config: the network's config; `architecture` and `model_args` in its `extra` are tried first.
      naming: the naming scheme of the library whose defaults hold.

    Raises:
      ValueError: if no named network has these sizes, naming the nearest with the differences.
    """
    given = config.extra.get("architecture"), config.extra.get("model_args") or {}
    # A library fills entries that the config leaves open with its own defaults.
    names, entries = [given, *((n, {}) for n in presets(family))], family.complete(config.to_dict(), naming).to_dict()
    if naming == "timm":
        names = [(name, changes) for name, changes in names if name not in family.torchvision]
    tried: list[tuple[list[str], str]] = []
    for extra in _extras(config):
        for name, changes in names:
            made = _complete(family, name, {**changes, **extra}, naming)
            if made is None:
                continue
            others = [(key, value) for key, value in made.to_dict().items() if entries.get(key) != value]
            if not others:
                return name, {**changes, **extra}
            tried.append(([f"{key}={entries.get(key)!r} in place of {value!r}" for key, value in others], name))
    if not tried:
        raise ValueError(f"the family {config.model_type!r} has no name that timm or torchvision knows")
    differs, name = min(tried, key=lambda t: len(t[0]))
    raise ValueError(f"no network of {naming} has these measures; {name} is nearest: {', '.join(differs)}")


def _complete(family: Family, name: Any, changes: dict[str, Any], naming: str) -> Config | None:
    if not isinstance(name, str):
        return None
    try:
        made = family.named(name, changes)
    except ValueError:  # an option that this family lacks
        return None
    return None if made is None else family.complete(made, naming)


def _extras(config: Config) -> Iterator[dict[str, Any]]:
    size, channels = (
        {word: getattr(config, ours) for word, ours in free.items() if hasattr(config, ours)} for free in _FREE
    )
    yield {}
    yield size
    yield channels
    yield size | channels
