"""What the name tables mapped while each had a rule for every block: the reference of those that count blocks.

`names_before.json` was written by the tables of commit fde3155, for a small network or two of every family. `layers`
are the tensors of one layer: the end of a name -> the ends of its paths, and the layout. A row is the beginning of
names ("?" stands for the table's prefix or nothing), the beginning of paths ("~" stands for it), a layer's number, and
the numbers that go in the places of "#" in both: `0>1` for `layer.0` -> `block1`. A table is a prefix and its rows.
"""

import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

FILE = Path(__file__).parents[1] / "weights" / "mapping" / "names_before.json"


class Before(NamedTuple):
    """The table of one naming of a network: name -> (paths, layout)."""

    config: dict[str, Any]
    naming: str
    names: dict[str, tuple[tuple[str, ...], str]]

    def __str__(self) -> str:
        options = ("basic", "squeeze", "embedding", "conv_mlp", "stem_hidden", "batch_norm", "pool", "use_swiglu_ffn")
        return " ".join(
            [self.config["model_type"], self.naming, *(word for word in options if word in str(self.config))]
        )

    @property
    def paths(self) -> list[str]:
        return list(dict.fromkeys(path for paths, _ in self.names.values() for path in paths))


@cache
def tables() -> list[Before]:
    held = json.loads(FILE.read_text(encoding="utf-8"))
    found = []
    for config, namings in held["tables"]:
        for naming, (prefix, rows) in namings.items():
            pairs = (pair for row in rows for pair in _pairs(held["rows"][row], held["layers"], prefix))
            found.append(Before(config, naming, dict(pairs)))
    return found


def _pairs(row: str, layers: list[dict[str, list[str]]], prefix: str) -> Iterator[tuple[str, Any]]:
    beginning, top, layer, *numbers = row.split(" ")
    for number in numbers:
        theirs, ours = number.split(">")
        stem, path = _filled(beginning, theirs), _filled(top, ours)
        for leaf, (*ends, layout) in layers[int(layer)].items():
            paths = tuple(end.replace("~", path) for end in ends)
            name = stem + leaf
            for start in (prefix, "") if name.startswith("?") else ("",):
                yield start + name.removeprefix("?"), (paths, layout)


def _filled(text: str, numbers: str) -> str:
    each = iter(numbers.split(","))
    return re.sub("#", lambda _: next(each), text)
