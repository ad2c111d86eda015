"""The inverse of a name table: writes a model's parameters under a file's names.

A rule can be inverted if its pattern, apart from its groups, is plain text: then a path determines the groups, and the
groups determine the name; a shifted number is shifted back. `(?:...)?` is written as nothing and `(?:a|b)` as `a`, so
put the usual spelling first.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jtl.params import flatten
from jtl.weights.formats.errors import WeightNameError
from jtl.weights.mapping.rules import DIGITS, Reference, Rule, Rules, parse

_SPECIAL = set("[]{}*+?|^$.")


class _Inverse(NamedTuple):
    """An inverted rule.

    Args:
      rule: the rule.
      template: template of the name, with a field `g1` for group 1.
      groups: the regexes of the pattern's groups.
      paths: for each path a regex whose group `r0` is the text of its first reference, and the references.
    """

    rule: Rule
    template: str
    groups: list[str]
    paths: list[tuple[re.Pattern[str], list[Reference]]]


def export(params: Mapping[str, Any], table: Sequence[Rule]) -> dict[str, np.ndarray]:
    """Makes a file's tensors from a model's parameters: the inverse of `convert`.

    Args:
      params: nested dicts of arrays.
      table: the rules; of several with the same path, the first whose name leads back to it is used.

    Returns:
      Name to array in the file's layout, C-ordered.

    Raises:
      WeightNameError: a parameter has no rule, or a split rule lacks one of its parameters.

    Example:
      >>> import numpy as np, jtl
      >>> from jtl.weights.mapping.transforms import dense
      >>> table = [jtl.weights.Rule("fc_weight", "dense/kernel", dense)]
      >>> jtl.weights.export({"dense": {"kernel": np.zeros((2, 3), np.float32)}}, table)["fc_weight"].shape
      (3, 2)
    """
    flat = flatten(params)
    done: set[str] = set()
    tensors: dict[str, np.ndarray] = {}
    inverses = [_inverse(rule) for rule in table if rule.paths]
    known = Rules(table)
    for path in flat:
        if path in done:
            continue
        rule, name, paths = _source(path, inverses, known)
        absent = [p for p in paths if p not in flat]
        if absent:
            raise WeightNameError(f"{name} needs {', '.join(absent)} beside {path}, which the parameters lack")
        value = rule.transform.inverse(*(np.asarray(flat[p]) for p in paths))
        tensors[name] = np.asarray(value, order="C")  # ascontiguousarray would give a number an axis
        done.update(paths)
    return tensors


def named(path: str, table: Sequence[Rule]) -> list[tuple[str, tuple[str, ...]]]:
    r"""The names of the tensor that holds a parameter in a file, each with the paths of all parameters in it.

    The first is the one that `export` writes; the last are those of newer versions of the library.

    Raises:
      WeightNameError: the parameter has no rule.

    Example:
      >>> from jtl.weights.mapping.rules import Rule
      >>> named("query/kernel", [Rule(r"qkv\.weight", ("query/kernel", "key/kernel", "value/kernel"))])
      [('qkv.weight', ('query/kernel', 'key/kernel', 'value/kernel'))]
    """
    found = list(_sources(path, [_inverse(rule) for rule in table if rule.paths], Rules(table)))
    if not found:
        raise _nameless(path)
    return [(name, paths) for _, name, paths in found]


def _source(path: str, inverses: Sequence[_Inverse], known: Rules) -> tuple[Rule, str, tuple[str, ...]]:
    for found in _sources(path, inverses, known):
        return found
    raise _nameless(path)


def _nameless(path: str) -> WeightNameError:
    return WeightNameError(f"no rule of the table gives the parameter {path!r}, so it has no name in the file")


def _sources(path: str, inverses: Sequence[_Inverse], known: Rules) -> Iterator[tuple[Rule, str, tuple[str, ...]]]:
    for inverse in inverses:
        for pattern, references in inverse.paths:
            match = pattern.fullmatch(path)
            groups = None if match is None else _groups(match, references, inverse.groups)
            if groups is None:
                continue
            name = inverse.template.format(**groups)
            first, paths = known.first(name) or (None, ())
            if first is inverse.rule and path in paths:
                yield inverse.rule, name, paths


def _groups(match: re.Match[str], references: Sequence[Reference], groups: Sequence[str]) -> dict[str, str] | None:
    """The text of each group, from the text of its references; None if a group does not match it."""
    found = {}
    for i, reference in enumerate(references):
        spellings = _spellings(match[f"r{i}"], reference)
        fitting = (text for text in spellings if re.fullmatch(groups[reference.group - 1], text))
        found[f"g{reference.group}"] = next(fitting, None)
    return found if None not in found.values() else None


def _spellings(text: str, reference: Reference) -> list[str]:
    """The texts of a group that a reference writes as `text`: in the file a number may have leading zeros."""
    if reference.shift is None:
        return [text]
    number = int(text) - reference.shift
    return [f"{number:0{width}}" for width in range(1, DIGITS)] if number >= 0 else []


def _inverse(rule: Rule) -> _Inverse:
    template, groups = _template(rule.pattern)
    paths = []
    for path in rule.paths:
        parts = parse(path)
        references = [part for part in parts if isinstance(part, Reference)]
        if len({reference.group for reference in references}) < len(groups):
            raise WeightNameError(f"rule {rule.pattern!r} -> {path!r} loses a group, so it cannot be read backwards")
        numbers = iter(range(len(references)))
        regex = "".join(
            re.escape(part) if isinstance(part, str) else f"(?P<r{next(numbers)}>{_written(part, groups)})"
            for part in parts
        )
        paths.append((re.compile(regex), references))
    return _Inverse(rule, template, groups, paths)


def _written(reference: Reference, groups: Sequence[str]) -> str:
    """A regex for the text that a reference writes into a path."""
    return groups[reference.group - 1] if reference.shift is None else rf"\d{{1,{DIGITS}}}"


def _template(pattern: str) -> tuple[str, list[str]]:
    r"""`a\.(\d+)\.b` -> ("a.{g1}.b", ["\d+"])."""
    out, groups, i = "", [], 0
    while i < len(pattern):
        c = pattern[i]
        if c == "\\" and i + 1 < len(pattern) and not pattern[i + 1].isalnum():
            out, i = out + pattern[i + 1].replace("{", "{{").replace("}", "}}"), i + 2
        elif c == "(":
            end = _closing(pattern, i)
            inner = pattern[i + 1 : end]
            i = end + 1
            if inner.startswith("?:"):
                optional = pattern[i : i + 1] == "?"
                i += optional
                out += "" if optional else _template(inner[2:].split("|")[0])[0]
            else:
                groups.append(inner)
                out += f"{{g{len(groups)}}}"
        elif c in _SPECIAL or c in "\\)":
            raise WeightNameError(f"rule {pattern!r} has {c!r} outside its groups, so it cannot be read backwards")
        else:
            out, i = out + c, i + 1
    return out, groups


def _closing(pattern: str, start: int) -> int:
    depth = 0
    for i in range(start, len(pattern)):
        if pattern[i - 1 : i] == "\\":
            continue
        depth += {"(": 1, ")": -1}.get(pattern[i], 0)
        if depth == 0:
            return i
    raise WeightNameError(f"rule {pattern!r} has a group without an end")
