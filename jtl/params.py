"""Rules over parameter paths: a list of (regex, value) wherever parameters are named.

A path is the keys of the tree joined by slashes: `backbone/stage1/block1/conv1/kernel`. A rule applies if
its regex matches the whole path, and the first rule that applies wins.
"""

import difflib
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from jtl.typing import Mask, Params, Tree

Table = Sequence[tuple[str, Any]]


def flatten(tree: Tree) -> dict[str, Any]:
    """Flattens a nested dict to `path -> leaf`, in the order of the tree.

    Raises:
      ValueError: for a name with a slash, which separates the names of a path.

    Example:
      >>> import jtl
      >>> jtl.flatten({"head": {"bias": 0, "kernel": 1}})
      {'head/bias': 0, 'head/kernel': 1}
    """

    def walk(prefix, node):
        for name, child in node.items():
            if "/" in str(name):
                raise ValueError(
                    f"the name {name!r} under {prefix or '/'!r} holds a slash, which separates names in a path"
                )
            path = f"{prefix}/{name}" if prefix else str(name)
            if isinstance(child, Mapping):
                yield from walk(path, child)
            else:
                yield path, child

    return dict(walk("", tree))


def unflatten(flat: Mapping[str, Any]) -> Tree:
    """The inverse of `flatten`.

    Example:
      >>> import jtl
      >>> jtl.unflatten({"head/bias": 0, "head/kernel": 1})
      {'head': {'bias': 0, 'kernel': 1}}
    """
    tree: Tree = {}
    for path, leaf in flat.items():
        *parents, name = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = leaf
    return tree


def match(table: Table, params: Params) -> Tree:
    """The value of the first rule that matches each path, as a tree like `params`.

    Raises:
      TypeError: for parameters that are not a nested dict with strings as keys.
      ValueError: for a rule whose regex matches no path at all, with the nearest paths; for paths that no rule
        matches; for a regex that does not compile.

    Example:
      >>> import jtl
      >>> jtl.match([("head/.*", 10.0), (".*", 1.0)], {"backbone": {"w": 0}, "head": {"w": 0}})
      {'backbone': {'w': 1.0}, 'head': {'w': 10.0}}
    """
    paths = list(_named(params))
    rules = [(_compile(pattern), value) for pattern, value in table]
    for rule, _ in rules:
        if not any(rule.fullmatch(path) for path in paths):
            raise ValueError(f"the pattern {rule.pattern!r} matches no parameter; {_nearest(rule.pattern, paths)}")
    found = {path: next((v for rule, v in rules if rule.fullmatch(path)), _NONE) for path in paths}
    unmatched = [path for path, value in found.items() if value is _NONE]
    if unmatched:
        raise ValueError(
            f"{len(unmatched)} parameters are matched by no pattern of {[p for p, _ in table]}: {_some(unmatched)};"
            " add a last rule ('.*', value)"
        )
    return unflatten(found)


def select(*patterns: str) -> Mask:
    """Selects the parameters that are trained: those whose whole path matches one of the regexes.

    `select("head/.*")` trains the head alone, `select(".*")` everything.

    Raises:
      ValueError: if no pattern is given; when the mask is applied, for a pattern that matches nothing, with the nearest
        paths.

    Example:
      >>> import jtl
      >>> jtl.select("head/.*")({"backbone": {"w": 0}, "head": {"w": 0}})
      {'backbone': {'w': False}, 'head': {'w': True}}
    """
    if not patterns:
        raise ValueError("select() needs at least one pattern; select('.*') is everything")
    for pattern in patterns:
        _compile(pattern)

    def mask(params: Params) -> Tree:
        return match([*((pattern, True) for pattern in patterns), (".*", False)], params)

    return mask


def counted(params: Params, learns: Mapping[str, bool]) -> str:
    """A line that says how many parameters there are, how many of them are trained, and what share that is.

    Args:
      params: nested dict of arrays or shapes.
      learns: for each path, whether the parameter is trained.

    Example:
      >>> import jax.numpy as jnp
      >>> params = {"head": {"bias": jnp.zeros(3), "kernel": jnp.zeros((8, 3))}}
      >>> counted(params, {"head/bias": False, "head/kernel": True})
      '27 parameters, 24 trainable (88.89 %), 3 frozen'
    """
    counts = {path: math.prod(leaf.shape) for path, leaf in flatten(params).items()}
    total, active = sum(counts.values()), sum(count for path, count in counts.items() if learns[path])
    share = 100 * active / total if total else 0.0
    return f"{total:,} parameters, {active:,} trainable ({share:.2f} %), {total - active:,} frozen"


def split(params: Params, mask: Mask | Tree) -> tuple[Params, Params]:
    """Splits a tree into (selected, rest): two trees of the same nesting with disjoint leaves.

    Args:
      params: a nested dict.
      mask: `select(...)`, or a tree of booleans like `params`.

    Raises:
      TypeError: for parameters that are not a nested dict with strings as keys.
      ValueError: if the tree of booleans does not have the paths of `params`.

    Example:
      >>> import jtl
      >>> jtl.split({"backbone": {"w": 0}, "head": {"w": 1}}, jtl.select("head/.*"))
      ({'head': {'w': 1}}, {'backbone': {'w': 0}})
    """
    chosen = flatten(mask(params) if callable(mask) else mask)
    flat = _named(params)
    if chosen.keys() != flat.keys():
        raise ValueError(f"the mask and the parameters differ at {_some(sorted(chosen.keys() ^ flat.keys()))}")
    return (
        unflatten({path: leaf for path, leaf in flat.items() if chosen[path]}),
        unflatten({path: leaf for path, leaf in flat.items() if not chosen[path]}),
    )


def merge(a: Params, b: Params) -> Params:
    """Joins two trees with disjoint leaves; undoes `split`.

    Raises:
      ValueError: if both hold the same path.

    Example:
      >>> import jtl
      >>> jtl.merge({"head": {"w": 1}}, {"backbone": {"w": 0}})
      {'head': {'w': 1}, 'backbone': {'w': 0}}
    """
    left, right = flatten(a), flatten(b)
    both = sorted(left.keys() & right.keys())
    if both:
        raise ValueError(f"both trees hold {_some(both)}")
    return unflatten({**left, **right})


_NONE = object()


def _named(params: Params) -> dict[str, Any]:
    """`flatten` for parameters, each of which must have a path: a batch may hold a list, parameters may not.

    Raises:
      TypeError: for a key that is not a string, because a path would turn it into one; for a list or tuple, because
        no path leads into it.
      ValueError: for a name with a slash.
    """

    def check(prefix: str, node: Any) -> None:
        for name, child in node.items():
            if not isinstance(name, str):
                raise TypeError(
                    f"the name {name!r} under {prefix or '/'!r} is of type {type(name).__name__}: give a string"
                )
            path = f"{prefix}/{name}" if prefix else name
            if type(child) in (list, tuple):
                raise TypeError(f"{path!r} is a {type(child).__name__}: give nested dicts of arrays, by names")
            if isinstance(child, Mapping):
                check(path, child)

    check("", params)
    return flatten(params)


def _compile(pattern: str) -> re.Pattern:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise ValueError(f"the pattern {pattern!r} is not a regular expression: {error}") from error


def _some(paths: Sequence[str], most: int = 8) -> str:
    return ", ".join(map(repr, paths[:most])) + (f" and {len(paths) - most} more" if len(paths) > most else "")


def _nearest(pattern: str, paths: Sequence[str]) -> str:
    prefixes = sorted({path.rsplit("/", i)[0] for path in paths for i in range(path.count("/") + 1)})
    whole = pattern.rstrip("/")
    if whole in prefixes:  # the name of a module, which holds parameters but is not one
        return f"{whole!r} is a module: give {whole + '/.*'!r} for the parameters under it"
    near = difflib.get_close_matches(re.sub(r"[\\.*+?()|^$\[\]]", "", pattern), prefixes, n=4, cutoff=0.3)
    return (f"the nearest are {_some(near)}" if near else f"there are {_some(paths)}") + _within(whole, prefixes)


def _within(pattern: str, prefixes: Sequence[str]) -> str:
    """Names the parts of the module that a pattern begins with; the nearest paths by spelling may lie elsewhere."""
    module = pattern
    while "/" in module:
        module = module.rsplit("/", 1)[0]
        if module in prefixes:
            inner = {
                path.removeprefix(f"{module}/").split("/")[0] for path in prefixes if path.startswith(f"{module}/")
            }
            names = sorted(inner, key=lambda name: [int(n) if n.isdigit() else n for n in re.split(r"(\d+)", name)])
            return f"; {module!r} holds {_some(names, 24)}" if names else ""
    return ""
