"""A table of rules from a file's names to a model's paths, and what it says of a name."""

import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import product
from typing import NamedTuple

from jtl.weights.mapping.transforms import Transform, identity

_PLAIN = r"\\\W|[^\\()\[\]{}*+?|^$.]"  # one sign that stands for itself
_END = re.compile(rf"(?<!\\)(?:{_PLAIN})*\Z")  # of a pattern
_PIECE = re.compile(rf"((?:{_PLAIN})+)|\(\?:((?:{_PLAIN}|\|)*)\)")  # plain text, or a choice of such


class Rule(NamedTuple):
    r"""One line of a name table.

    Args:
        pattern: a regex that matches a whole name of the file.
        path: the parameter's path, with `\1` for the pattern's groups; several paths where the transform splits; None
            where the tensor is no parameter and is left (a counter).
        transform: from the file's layout to the model's.
    """

    pattern: str
    path: str | tuple[str, ...] | None
    transform: Transform = identity

    @property
    def paths(self) -> tuple[str, ...]:
        """The path templates, none, one or several."""
        if self.path is None:
            return ()
        return (self.path,) if isinstance(self.path, str) else self.path


class Rules:
    """A table to look names up in: the first rule whose pattern matches a whole name decides.

    A network has hundreds of rules, most of them of one name or two: those are looked up, and only the others are
    compiled, of which a name has to try those with its end.

    Raises:
      re.error: a pattern is no regex.
    """

    def __init__(self, table: Sequence[Rule]):
        self._table = table
        self._named: dict[str, int] = {}
        self._others: list[tuple[int, str, re.Pattern[str]]] = []
        for i, rule in enumerate(table):
            names = spelled(rule.pattern)
            if names is None:
                self._others.append((i, plain_end(rule.pattern), _compiled(rule.pattern)))
            for name in names or ():
                self._named.setdefault(name, i)

    def first(self, name: str) -> tuple[Rule, tuple[str, ...]] | None:
        """The rule of a name and the paths it gives; None where no rule matches."""
        named = self._named.get(name, len(self._table))
        for i, end, pattern in self._others:
            if i > named:
                break
            match = pattern.fullmatch(name) if name.endswith(end) else None
            if match:
                return self._table[i], tuple(_expanded(path, match) for path in self._table[i].paths)
        return None if named == len(self._table) else (self._table[named], self._table[named].paths)


@lru_cache(4096)
def spelled(pattern: str) -> tuple[str, ...] | None:
    """All names that a regex matches, where it is plain text and choices of plain texts; else None."""
    parts: list[list[str]] = []
    at = 0
    while at < len(pattern):
        piece = _PIECE.match(pattern, at)
        if piece is None:
            return None
        texts = [piece[1]] if piece[2] is None else _choices(piece[2])
        parts.append([re.sub(r"\\(\W)", r"\1", text) for text in texts])
        at = piece.end()
    return tuple("".join(part) for part in product(*parts))


def _choices(group: str) -> list[str]:
    """What lies between the signs | that stand for no sign."""
    found = [""]
    for sign in re.findall(rf"{_PLAIN}|\|", group):
        if sign == "|":
            found.append("")
        else:
            found[-1] += sign
    return found


@lru_cache(4096)
def plain_end(pattern: str) -> str:
    """A text at the end of every name that a regex matches; other names need not be tried, which takes longer."""
    if "|" in re.sub(r"\([^()]*\)", "", pattern) or re.search(r"\(\?[a-zA-Z]", pattern):  # alternatives; flags
        return ""
    return re.sub(r"\\(\W)", r"\1", _END.findall(pattern)[0])


_compiled = lru_cache(4096)(re.compile)  # `re` itself keeps 512, fewer than a large network has


def _expanded(path: str, match: re.Match[str]) -> str:
    """`match.expand(path)`, which in Python 3.11 takes a path apart again for every name."""
    parts = _parts(path)
    return path if len(parts) == 1 else "".join((match[int(p)] or "") if i % 2 else p for i, p in enumerate(parts))


@lru_cache(4096)
def _parts(path: str) -> list[str]:
    """The texts of a path and, between them, the numbers of its groups."""
    return re.split(r"\\(\d)", path)
