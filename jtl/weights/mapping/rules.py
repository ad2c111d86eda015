"""A table of rules from a file's names to a model's paths, and its lookup."""

import re
from collections.abc import Iterable, Sequence
from functools import cache
from typing import NamedTuple

from jtl.weights.mapping.transforms import Transform, identity

DIGITS = 9  # longer numbers are not shifted: no network has so many blocks, and `int` refuses thousands of digits
_GROUP = re.compile(r"\[[^]]*\][?*+]?|(?<!\\)\((?:[^()\\]|\\.)*\)(?:[?*+]|\{[^}]*\})?")
_NOT_LITERAL = re.compile(r"\\[a-zA-Z0-9]|(?:\\.|[^\\])[?*+]|[\^$.](?<!\\.)|\0")
_REFERENCE = re.compile(r"\\(\d)|\{(\d)([+-]\d+)\}")


class Rule(NamedTuple):
    r"""One line of a name table; one line covers a layer in all blocks.

    Args:
      pattern: a regex that matches a whole name of the file.
      path: the parameter's path, with references to the pattern's groups: `\1` is the text of group 1, `{1+1}` is the
        integer of group 1 plus 1, `{1-1}` minus 1, and `{1+0}` the integer without leading zeros. Several paths if the
        transform splits the tensor; None for a tensor that is not a parameter and not read (a counter).
      transform: converts the file's layout to the model's.

    Example:
      >>> rule = Rule(r"layer\.(\d+)\.norm\.weight", "backbone/block{1+1}/norm/scale")
      >>> Rules([rule]).first("layer.11.norm.weight")[1]
      ('backbone/block12/norm/scale',)
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


class Reference(NamedTuple):
    """A place in a path template that is filled by a group of the pattern.

    Args:
      group: number of the group.
      shift: added to the group's integer; None takes the group's text as it is.
    """

    group: int
    shift: int | None


class Rules:
    """A table in which names are looked up: the first rule whose pattern matches a whole name applies.

    Raises:
      re.error: a pattern is not a regex.
      ValueError: a path refers to a group that its pattern lacks, or has a brace that is not part of a reference.
    """

    def __init__(self, table: Sequence[Rule]):
        self._table = [(needed(rule.pattern), rule, *_compiled(rule.pattern, rule.paths)) for rule in table]
        for _, rule, pattern, paths in self._table:
            for reference in (part for path in paths for part in path if isinstance(part, Reference)):
                if reference.group > pattern.groups:
                    raise ValueError(
                        f"rule {rule.pattern!r} -> {rule.path!r}: the path refers to group {reference.group}, the "
                        f"pattern has {pattern.groups}"
                    )

    def first(self, name: str) -> tuple[Rule, tuple[str, ...]] | None:
        """The rule for a name and the resulting paths; None if no rule matches.

        Raises:
          ValueError: a path shifts a group that did not match a number.
        """
        for text, rule, pattern, paths in self._table:
            if text in name and (match := pattern.fullmatch(name)):
                return rule, tuple("".join(_text(part, match) for part in path) for path in paths)
        return None

    def known(self, names: Iterable[str]) -> int:
        """The number of these names that have a rule."""
        return sum(self.first(name) is not None for name in names)


@cache  # the networks of a family share most of their tables
def _compiled(pattern: str, paths: tuple[str, ...]) -> tuple[re.Pattern[str], tuple[list[str | Reference], ...]]:
    return re.compile(pattern), tuple(map(parse, paths))


@cache
def needed(pattern: str) -> str:
    r"""The longest text that every match of a pattern contains: `.norm.weight` of `layer\.(\d+)\.norm\.weight`.

    Searching for a text takes a tenth of a regex's time, and most rules match none of a file's names.
    """
    rest, found = pattern, 1
    while found:
        rest, found = _GROUP.subn("\0", rest)
    if "|" in rest or "(" in rest or "{" in rest:
        return ""
    return max((re.sub(r"\\(.)", r"\1", text) for text in _NOT_LITERAL.split(rest)), key=len)


def parse(path: str) -> list[str | Reference]:
    r"""`block{1+1}/\2` -> ["block", Reference(1, 1), "/", Reference(2, None)].

    Raises:
      ValueError: the path has a brace that is not part of a reference.
    """
    parts: list[str | Reference] = []
    at = 0
    for found in _REFERENCE.finditer(path):
        parts.append(path[at : found.start()])
        parts.append(Reference(int(found[1]), None) if found[1] else Reference(int(found[2]), int(found[3])))
        at = found.end()
    parts.append(path[at:])
    for part in parts:
        if isinstance(part, str) and ("{" in part or "}" in part):
            raise ValueError(f"path {path!r} has a brace that is no reference; write the integer of group 1 as {{1+1}}")
    return parts


def _text(part: str | Reference, match: re.Match[str]) -> str:
    if isinstance(part, str):
        return part
    text = match[part.group] or ""
    if part.shift is None:
        return text
    if not text.isdecimal():
        raise ValueError(
            f"rule {match.re.pattern!r} counts by group {part.group}, which is {text!r} in {match.string!r}; give it a "
            r"group of digits, as (\d+)"
        )
    return str(int(text) + part.shift) if len(text) <= DIGITS else text
