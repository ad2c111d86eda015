"""Maps a file's names to a model's paths by a table, and accounts for every name on both sides."""

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Lock
from typing import Any

import numpy as np

from jtl.params import flatten, unflatten
from jtl.weights.formats.errors import WeightNameError
from jtl.weights.formats.lazy_tensors import Tensors
from jtl.weights.mapping.arena import Slabs
from jtl.weights.mapping.cast import filled, mismatch, own
from jtl.weights.mapping.coverage import Coverage, Loaded
from jtl.weights.mapping.mismatch import Mismatch, near
from jtl.weights.mapping.rules import Rule, Rules

READERS = 4  # most threads: while one waits for the file, another transposes; each holds one tensor


_Claim = tuple[str, Rule, tuple[str, ...]]  # a tensor, the rule for its name, and the resulting paths


def convert(
    tensors: Mapping[str, np.ndarray],
    table: Sequence[Rule],
    params: Mapping[str, Any],
    *,
    reinit: Sequence[str] = (),
    unused: Sequence[str] = (),
    finish: Callable[[str, np.ndarray], Any] | None = None,
) -> tuple[dict[str, Any], Coverage]:
    """Makes a model's parameters from a file's tensors.

    The first rule whose pattern matches a whole name applies. A few tensors are read at a time.

    Args:
      tensors: name to array, as returned by `read`.
      table: the rules.
      params: the model's parameters: nested dicts of arrays (anything with `shape` and `dtype`).
      reinit: regexes on paths whose parameters keep their values in `params` ("head/.*"; "head/*"
        means the same).
      unused: regexes on the file's names that are left unread.
      finish: `finish(path, array)` returns the value to keep; the array has the model's shape but the file's number
        type, and may be a view of the file. It is called from several threads. None makes NumPy arrays of the model's
        number type.

    Returns:
      Parameters with the structure, shapes and number types of `params`, and the coverage of the conversion.

    Raises:
      WeightNameError: names are missing, unexpected, claimed twice or of another shape, with all of them listed; or a
        regex of `reinit` or `unused` matches nothing.

    Example:
      >>> import numpy as np, jtl
      >>> from jtl.weights.mapping.transforms import dense
      >>> table = [jtl.weights.Rule("fc.weight", "dense/kernel", dense)]
      >>> model = {"dense": {"kernel": np.zeros((2, 3), np.float32)}}
      >>> params, coverage = jtl.weights.convert({"fc.weight": np.ones((3, 2), np.float32)}, table, model)
      >>> params["dense"]["kernel"].shape
      (2, 3)
    """
    wanted = flatten(params)
    kept = matching(reinit, wanted, "reinit", "parameters")
    left = matching(unused, tensors, "unused", "tensors of the file")
    rules = Rules(table)
    coverage = Coverage(reinit=[path for path in wanted if path in kept])
    unexpected: dict[str, str] = {}
    problems: list[str] = []
    sources: dict[str, str] = {}
    claims: list[_Claim] = []
    for name in tensors:
        found = None if name in left else rules.first(name)
        if name in left or (found is not None and (not found[1] or set(found[1]) <= kept)):
            coverage.unused.append(name)
            continue
        if found is None or not wanted.keys() >= set(found[1]):
            unexpected[name] = name if found is None else f"{name} (as {', '.join(found[1])})"
            continue
        twice = [path for path in found[1] if path in sources]
        if twice:
            problems.append(f"  {twice[0]}: both {sources[twice[0]]} and {name} of the file")
            continue
        sources.update(dict.fromkeys(found[1], name))
        claims.append((name, *found))

    slabs = Slabs({path: leaf for path, leaf in wanted.items() if path in sources and path not in kept})

    ahead, one_by_one = iter(range(len(claims))), Lock()
    taken: dict[int, list[tuple[Loaded, Any] | str]] = {}

    def take(_: int) -> None:
        """The work of each reader; a task per tensor would cost more time than a bias."""
        try:
            while (i := _next(ahead, one_by_one)) is not None:
                asked = {path: wanted[path] for path in claims[i][2] if path not in kept}
                taken[i] = list(_taken(tensors, claims[i], asked, slabs, finish))
        except BaseException:
            while _next(ahead, one_by_one) is not None:
                pass  # so the others stop too
            raise

    values: dict[str, Any] = {}
    count = min(READERS, (os.cpu_count() or 1) + 1)  # one more than cores, in case two share a core
    with ThreadPoolExecutor(count) as readers:
        list(readers.map(take, range(count)))
    for i in range(len(claims)):
        for part in taken[i]:
            if isinstance(part, str):
                problems.append(part)
            else:
                coverage.loaded.append(part[0])
                values[part[0].path] = part[1]
    missing = [path for path in wanted if path not in sources and path not in kept]
    if missing or unexpected or problems:
        used = set(sources.values())
        raised = Mismatch(missing, [path for path in wanted if path in sources], unexpected, used, problems)
        raise WeightNameError(raised.message(list(tensors), reinit, unused))
    return unflatten({path: values.get(path, leaf) for path, leaf in wanted.items()}), coverage


def _next(ahead: Iterator[int], one_by_one: Lock) -> int | None:
    with one_by_one:
        return next(ahead, None)


def _taken(
    tensors: Mapping[str, np.ndarray],
    claim: _Claim,
    wanted: Mapping[str, Any],
    slabs: Slabs,
    finish: Callable[[str, np.ndarray], Any] | None,
) -> Iterator[tuple[Loaded, Any] | str]:
    """Yields the parameters made from one tensor, or a description of what is wrong with it."""
    name, rule, paths = claim
    if finish is None and len(paths) == 1 and isinstance(tensors, Tensors):
        entry, leaf = tensors.entry(name), wanted[paths[0]]
        made = filled(entry, rule.transform, leaf, partial(slabs.empty, paths[0]))
        if made is not None:
            yield Loaded(paths[0], name, rule.transform.name, entry.shape, made.shape, str(made.dtype)), made
            return
    value = tensors.view(name) if finish is not None and isinstance(tensors, Tensors) else tensors[name]
    try:
        parts = rule.transform.forward(value)
    except ValueError as error:
        yield f"  {name} {value.shape} cannot become {', '.join(paths)}: {error}"
        return
    for path, part in zip(paths, [parts] if isinstance(parts, np.ndarray) else parts, strict=True):
        if path not in wanted:
            continue
        leaf = wanted[path]
        problem = mismatch(part, leaf)
        if problem:
            yield f"  {path}: {problem}; from {name} {value.shape}, {rule.transform.name}"
            continue
        empty = partial(slabs.empty, path)
        kept = own(part, leaf.dtype, empty) if finish is None else finish(path, part)
        yield Loaded(path, name, rule.transform.name, value.shape, part.shape, str(np.dtype(leaf.dtype))), kept


def matching(patterns: Sequence[str], names: Iterable[str], option: str, what: str) -> set[str]:
    """Those of `names` that a regex of `option` matches; the error for a regex without match calls them `what`."""
    if isinstance(patterns, str):
        raise TypeError(f"{option}={patterns!r} is a string; give a tuple of regexes: ({patterns!r},)")
    names, found = list(names), set[str]()
    for pattern in patterns:
        regex = pattern[:-1] + ".*" if pattern.endswith("/*") else pattern
        try:
            hits = [name for name in names if re.fullmatch(regex, name)]
        except re.error as error:
            raise ValueError(f"{option}: {pattern!r} is not a regular expression: {error}") from error
        if not hits:
            raise WeightNameError(
                f"{option}: {pattern!r} matches none of the {len(names)} {what}{near(pattern, names)}"
            )
        found.update(hits)
    return found
