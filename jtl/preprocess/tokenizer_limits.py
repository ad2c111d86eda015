"""Bounds the work that a tokenizer.json may cause: by its patterns, and by how far it makes a text grow.

The library that runs it has no limits: `(a+)+$` takes time exponential in the text, and thirty replacements of "a" by
"aa" make a gigabyte from one letter, partly while the file is read. A time limit would need another process for each
call. Instead, patterns are restricted in their form before the file is read, which costs nothing later.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jtl.weights.formats.errors import WeightFileError, in_file, show
from jtl.weights.formats.safetensors import parse_json
from jtl.weights.formats.source import ByteSource

MAX_FILE = 128 << 20  # bytes; vocabularies of 256,000 pieces take 35 million
MAX_PATTERN = 10_000  # characters
MAX_STEPS = 100  # components that a text passes through
MAX_GROWTH = 64  # the factor by which all replacements in sequence may lengthen a text
MAX_UNBOUNDED, MAX_VARIABLE = 3, 16  # repetitions in sequence, whose combinations a match may try
STEPS = ("normalizer", "pre_tokenizer", "decoder")

# Parts of Oniguruma's Ruby syntax, without those that could end elsewhere there (\c(, comments in (?x)).
_ESCAPE = re.compile(
    r"\\(?:[pP]\{\^?\w+\}|x\{[0-9A-Fa-f ]+\}|x[0-9A-Fa-f]{1,2}|u[0-9A-Fa-f]{4}|[dDwWsSbBAzZGhHntrfvae0]|[\W_])"
)
_GROUP = re.compile(r"\((?:\?(?:[:=!>]|<[=!]|[im]*(?:-[im]+)?:|<[A-Za-z_]\w*>))?")
_FLAGS = re.compile(r"\(\?[im]*(?:-[im]+)?\)")
_REPEAT = re.compile(r"[*+?][?+]?|(?:\{\d+(?:,\d*)?\}|\{,\d+\})\??")  # {1,2}+ is a repeated repetition


def check_limits(path: Path) -> None:
    """Refuses a tokenizer.json that could take unbounded time or memory.

    Args:
      path: the file.

    Raises:
      ValueError: if the file is too large, is not JSON, or has an unbounded pattern or replacement, naming the file.
    """
    source = ByteSource(path)
    with in_file(path):
        if source.size > MAX_FILE:
            raise WeightFileError(f"has {source.size} bytes; at most {MAX_FILE} are read")
        whole = parse_json(source.bytes(0, source.size))
        if not isinstance(whole, dict):
            raise WeightFileError(f"holds {show(whole)}, no tokenizer")
        for name in STEPS:
            _check_steps(name, whole.get(name))


def _check_steps(name: str, tree: Any) -> None:
    growth, found = 1.0, list(_dicts(tree))
    if len(found) > 3 * MAX_STEPS:  # a component, its pattern, and a list of them
        raise WeightFileError(f"its {name} has {len(found)} parts; at most {3 * MAX_STEPS} are read")
    for part in found:
        pattern = part.get("pattern")
        regex = pattern.get("Regex") if isinstance(pattern, dict) else None
        if isinstance(regex, str):
            with in_file(Path(name)):
                check_pattern(regex)
        added = part.get("content") if part.get("type") == "Replace" else None
        if isinstance(added, str):
            string = pattern.get("String") if isinstance(pattern, dict) else None
            growth *= max(1.0, len(added.encode()) / max(len(string.encode()), 1) if isinstance(string, str) else 0.0)
            if not isinstance(string, str):  # a regex may match every character, and every gap
                growth *= 1 + len(added)
    # One replacement by a longer word is common; only replacements of replacements grow without bound.
    if growth > MAX_GROWTH:
        raise WeightFileError(f"its {name} can make a text {growth:.3g} times as long; at most {MAX_GROWTH} is read")


def _dicts(tree: Any) -> Iterator[dict[str, Any]]:
    """Yields all objects of a JSON tree, whose depth its reader has bounded."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            yield node
        waiting.extend(node.values() if isinstance(node, dict) else node if isinstance(node, list) else ())


def check_pattern(pattern: str) -> None:
    """Refuses a regular expression whose matching time is not bounded by a low power of the text's length.

    A repeated part must contain neither a choice nor a repetition of variable length; at most `MAX_UNBOUNDED` unbounded
    repetitions may follow each other; and back-references are not allowed.

    Raises:
      WeightFileError: for such a pattern, or one that cannot be parsed, naming it with the reason.
    """
    if len(pattern) > MAX_PATTERN:
        raise WeightFileError(f"a pattern of {len(pattern)} characters; at most {MAX_PATTERN} are read")
    try:
        at, unbounded, variable, _ = _branches(pattern, 0, 0)
        if at < len(pattern):
            raise _Unbounded("closes a group that it does not open")
        if unbounded > MAX_UNBOUNDED or variable > MAX_VARIABLE:
            raise _Unbounded(f"has {unbounded} endless and {variable} variable repetitions one after the other")
    except _Unbounded as reason:
        raise WeightFileError(
            f"the pattern {show(pattern)} {reason}: its matches could take hours, so it is not read"
        ) from None


class _Unbounded(Exception):
    """The reason why a pattern is refused."""


def _branches(pattern: str, at: int, depth: int) -> tuple[int, int, int, int]:
    """Returns (end, endless repetitions, other variable repetitions, choices), the maximum over all alternatives."""
    if depth > 20:
        raise _Unbounded("nests more than 20 groups")
    most, now, choices = (0, 0), (0, 0), 0
    while at < len(pattern) and pattern[at] != ")":
        if pattern[at] == "|":
            most, now, at, choices = (max(most[0], now[0]), max(most[1], now[1])), (0, 0), at + 1, choices + 1
            continue
        at, endless, variable, inner = _atom(pattern, at, depth)
        choices += inner
        found = _REPEAT.match(pattern, at)
        while found:
            least, greatest = _bounds(found[0])
            if greatest is None or greatest > 1:
                if endless or variable or inner:
                    raise _Unbounded("repeats what may itself match in several ways")
                endless, variable = (int(greatest is None), int(greatest is not None and least != greatest))
            else:
                variable += 1
            at, found = found.end(), _REPEAT.match(pattern, found.end())
        now = now[0] + endless, now[1] + variable
    return at, max(most[0], now[0]), max(most[1], now[1]), choices


def _atom(pattern: str, at: int, depth: int) -> tuple[int, int, int, int]:
    if pattern[at] == "[":
        return _class_end(pattern, at), 0, 0, 0
    flags = _FLAGS.match(pattern, at)
    if flags:
        return flags.end(), 0, 0, 0
    if pattern[at] == "(":
        opened = _GROUP.match(pattern, at)
        if opened is None or pattern[opened.end() : opened.end() + 1] == "?":
            raise _Unbounded(f"has {show(pattern[at : at + 4])}, a group that is not known")
        end, endless, variable, choices = _branches(pattern, opened.end(), depth + 1)
        if end >= len(pattern):
            raise _Unbounded("has a group without an end")
        return end + 1, endless, variable, choices
    if pattern[at] == "\\":
        return _escape_end(pattern, at), 0, 0, 0
    return at + 1, 0, 0, 0


def _escape_end(pattern: str, at: int) -> int:
    found = _ESCAPE.match(pattern, at)
    if found is None:
        raise _Unbounded(f"has {show(pattern[at : at + 2])}, which is not known")
    return found.end()


def _class_end(pattern: str, at: int) -> int:
    """Returns the position after a class of characters, which may contain further classes."""
    depth = 0
    while at < len(pattern):
        if pattern[at] == "\\":
            at = _escape_end(pattern, at)
            continue
        if pattern[at] == "[":
            depth += 1
            at += pattern[at + 1 : at + 2] == "^"
            if pattern[at + 1 : at + 2] == "]":
                raise _Unbounded("has a class of characters that begins with ]; write \\]")
        elif pattern[at] == "]":
            depth -= 1
            if not depth:
                return at + 1
        at += 1
    raise _Unbounded("has a class of characters without an end")


def _bounds(repeat: str) -> tuple[int, int | None]:
    if repeat[0] in "*+?":
        return int(repeat[0] == "+"), 1 if repeat[0] == "?" else None
    least, comma, greatest = repeat[1 : repeat.index("}")].partition(",")
    return int(least or 0), (int(greatest) if greatest else None) if comma else int(least)
