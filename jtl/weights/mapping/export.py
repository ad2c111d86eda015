"""The name table read backwards: a model's parameters under a file's names.

A rule can be read backwards when its pattern, apart from its groups, is plain text: then a path gives the
groups, and the groups give the name. `(?:...)?` is written as nothing and `(?:a|b)` as `a`, so put the
usual spelling first.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jtl.weights.formats.errors import WeightNameError
from jtl.weights.mapping.convert import flatten
from jtl.weights.mapping.rules import Rule, Rules

_SPECIAL = set("[]{}*+?|^$.")


def export(params: Mapping[str, Any], table: Sequence[Rule]) -> dict[str, np.ndarray]:
    """A file's tensors from a model's parameters: the inverse of `convert`.

    Args:
        params: nested dicts of arrays.
        table: the rules; of several that give a path, the first whose name leads back to it is used.

    Returns:
        Name to array in the file's layout, C-ordered.

    Raises:
        WeightNameError: a parameter has no rule, or a split rule lacks one of its parameters.
    """
    flat = dict(flatten(params))
    done: set[str] = set()
    tensors: dict[str, np.ndarray] = {}
    inverses = [(rule, *_inverse(rule)) for rule in table if rule.paths]
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


def _source(
    path: str,
    inverses: Sequence[tuple[Rule, str, tuple[re.Pattern[str], ...]]],
    known: Rules,
) -> tuple[Rule, str, tuple[str, ...]]:
    for rule, template, patterns in inverses:
        for pattern in patterns:
            match = pattern.fullmatch(path)
            if match is None:
                continue
            name = template.format(**match.groupdict())
            first, paths = known.first(name) or (None, ())
            if first is rule and path in paths:
                return rule, name, paths
    raise WeightNameError(f"no rule of the table gives the parameter {path!r}, so it has no name in the file")


def _inverse(rule: Rule) -> tuple[str, tuple[re.Pattern[str], ...]]:
    """The name as a template of its groups, and each path as a regex for them."""
    template, groups = _template(rule.pattern)
    patterns = []
    for path in rule.paths:
        seen: set[str] = set()
        regex = ""
        for part in re.split(r"(\\\d+)", path):
            if not re.fullmatch(r"\\\d+", part):
                regex += re.escape(part)
                continue
            key = f"g{part[1:]}"
            regex += f"(?P={key})" if key in seen else f"(?P<{key}>{groups[int(part[1:]) - 1]})"
            seen.add(key)
        if len(seen) < len(groups):
            raise WeightNameError(f"rule {rule.pattern!r} -> {path!r} loses a group, so it cannot be read backwards")
        patterns.append(re.compile(regex))
    return template, tuple(patterns)


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
