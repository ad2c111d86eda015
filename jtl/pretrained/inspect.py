"""Describes the tensors of a weight file, and finds the network whose names they have."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jtl.backbones.registry import FAMILIES, Config
from jtl.paths import local
from jtl.pretrained.depth import blocks_of
from jtl.pretrained.outline import outline
from jtl.pretrained.presets import presets, tables
from jtl.pretrained.recognise import adapter, beginnings, common_prefixes, described, recognise
from jtl.pretrained.wrappers import unwrapped
from jtl.weights.formats.errors import show
from jtl.weights.formats.lazy_tensors import Tensors
from jtl.weights.formats.read import read
from jtl.weights.mapping.coverage import table
from jtl.weights.mapping.rules import Rule, Rules, needed

UNTOLD = "what has no tensors, such as activation, epsilons, padding or preprocessing"
"""What networks with the same tensors differ in, for messages."""


class Fit(NamedTuple):
    """How well a network's names fit a file.

    Args:
      family: the network's `model_type`.
      naming: the naming scheme.
      config: the network's config.
      name: the network's name; "" if a `config.json` describes it.
      named: how many tensors of the file have a name of the network.
      absent: how many of its parameters, without the head, the file lacks; None if shapes were not compared.
      mismatched: how many of the file's parameters have another shape; None if shapes were not compared.
    """

    family: str
    naming: str
    config: Config
    name: str
    named: int
    absent: int | None = None
    mismatched: int | None = None


class _Hits(NamedTuple):
    """How many names of a file a name table matches.

    Args:
      named: how many tensors of the file have a rule.
      unmet: how many rules of parameters match no tensor.
      blocks: how many blocks the matched parameters belong to.
    """

    named: int
    unmet: int
    blocks: int


def inspect(path: str | Path, rows: int = 40, *, within: str | None = None, prefix: str = "") -> str:
    """Returns a description of a weight file as text; only headers are read.

    Args:
      path: a file or a folder, as for `jtl.load`.
      rows: how many tensors to list.
      within, prefix: see `jtl.load`.

    Raises:
      FileNotFoundError: if the path does not exist.
      WeightFileError: if the file is damaged, malicious or of another kind.
      WeightNameError: if no name begins with the prefix.
      ValueError: if `rows` is below 0.
    """
    if rows < 0:
        raise ValueError(f"rows={rows}: at least 0")
    path = local(path, "path")
    tensors = read(path, within=within).under(prefix)
    entries = {name: tensors.entry(name) for name in tensors}
    numbers = {name: prod(entry.shape) for name, entry in entries.items()}
    kinds = Counter[str]()
    for name, entry in entries.items():
        kinds[entry.dtype.name] += numbers[name]
    lines = [
        f"{tensors.path}: {len(tensors):,} tensors, {sum(numbers.values()):,} numbers, {tensors.nbytes:,} bytes",
        "types: " + (", ".join(f"{kind} {count:,}" for kind, count in kinds.most_common()) or "none"),
    ]
    lines += [f"{show(key, 40)}: {show(text)}" for key, text in list(tensors.metadata.items())[:10]]
    listed = [("tensor", "shape", "type")]
    # Scalars come last, because batch counters, with which some files begin, say little about a network.
    for name, entry in sorted(entries.items(), key=lambda item: item[1].shape == ())[:rows]:
        listed.append((_plain(name), "x".join(map(str, entry.shape)) or "scalar", entry.dtype.name))
    if rows and entries:
        lines += ["", table(listed)]
    if rows and len(entries) > rows:
        lines.append(f"... and {len(entries) - rows:,} more")
    return "\n".join([*lines, "", *_verdict(path, tensors, {"within": within, "prefix": prefix})])


def _plain(name: str) -> str:
    """Returns a name as it is, or escaped if it would break the table."""
    return name if name.isprintable() and len(name) <= 100 else show(name)


def _verdict(path: Path, tensors: Tensors, asked: Mapping[str, str | None]) -> list[str]:
    of_peft = adapter(path)
    if of_peft is not None:
        return [of_peft]
    word, found = _fits_within(path, tensors)
    if not found:
        most = beginnings(list(tensors)).most_common(1)
        told = [f"{count} begin with {show(word)}, and prefix={show(word)} leaves that out." for word, count in most]
        return [" ".join(["No family of jtl has these names.", *told])]
    also = "".join(f", {option}={value!r}" for option, value in asked.items() if value)
    begin = [f"All names begin with {show(word)}, which jtl.load leaves out."] if word else []
    best = found[0]
    family = f"{best.family}, by the names of {best.naming}"
    network = f", {best.name}" if best.name else " of its config.json"
    told = f"{best.named} of {len(tensors)} tensors have a name of {family}{network}"
    if best.mismatched == 0 and best.absent == 0 and best.named == len(tensors):
        arch = f", arch={best.name!r}" if best.name else ""
        twins = ", ".join(fit.name for fit in found[1:] if fit.mismatched == fit.absent == 0)
        more = [f"They fit {twins} too, which differs in {UNTOLD}."]
        return [*begin, f"All {told}, and fit it: jtl.load({str(path)!r}{arch}{also})", *(more if twins else [])]
    said = [told]
    if best.mismatched is not None and best.absent is not None:
        said.append(f"{best.mismatched} have another shape than there, {best.absent} of its parameters are absent")
    others = dict.fromkeys(f.name or f.family for f in found[1:4])
    return [*begin, "; ".join(said), *([f"Next: {', '.join(others)}"] if others else [])]


def fits(path: Path, tensors: Tensors) -> list[Fit]:
    """Returns the networks with names of the file, the best first: that of its `config.json`, or all known networks."""
    tensors = unwrapped(tensors)
    if path.is_dir() and described(path) is not None:
        found = recognise(path, None)
        networks = [("", found.family, found.entries)]
    else:
        networks = [(n, family, family.named(n, {}) or {}) for family in FAMILIES.values() for n in presets(family)]
    hits: dict[tuple[Any, ...], _Hits] = {}  # networks of a family share most of their tables
    ranked: list[tuple[int, int, int, Fit]] = []
    for name, family, config in networks:
        whole = family.complete(config, "")
        for naming, rules in tables(family, whole).items():
            key = tuple(rule[:2] for rule in rules)
            if key not in hits:
                hits[key] = _hits(tensors, rules)
            named, unmet, count = hits[key]
            if named:
                completed = family.complete(config, naming)
                fit = Fit(completed.model_type, naming, completed, name, named)
                ranked.append((-named, unmet, abs(count - family.count_blocks(whole)), fit))
    ranked.sort(key=lambda entry: entry[:3])
    # Networks with the same names and depth differ in their shapes, or else in what they compute.
    alike = distinct([fit for *rank, fit in ranked if rank == list(ranked[0][:3])])
    looked = [_with_shapes(fit, tensors) for fit in alike]
    looked.sort(key=lambda fit: (fit.mismatched or 0) + (fit.absent or 0))
    seen = {fit.name for fit in looked}
    return looked + [fit for *_, fit in ranked if fit.name not in seen]


def exact(path: Path, tensors: Tensors) -> list[Fit]:
    """Returns the networks that have all parameters of the file in its shapes.

    Two of them give different results: activations, epsilons, padding and preprocessing have no parameters.
    """
    return [fit for fit in _fits_within(path, tensors)[1] if fit.mismatched == fit.absent == 0]


def _fits_within(path: Path, tensors: Tensors) -> tuple[str, list[Fit]]:
    """Returns `fits` after the prefix of all names, mostly "", that leaves most names of a network, and this prefix."""
    best: tuple[int, str, list[Fit]] = (-1, "", [])
    for prefix in common_prefixes(tensors):
        found = fits(path, tensors.under(prefix))
        named = max((fit.named for fit in found), default=0)
        best = max(best, (named, prefix, found), key=lambda one: one[0])
        if named == len(tensors):
            break  # no other prefix can leave more
    return best[1:]


def distinct(fits: Sequence[Fit]) -> list[Fit]:
    """Leaves out second names of a network, such as torchvision's of timm's file, unless the preprocessing differs."""
    networks: dict[str, dict[str, Fit]] = {}
    for fit in fits:
        networks.setdefault(repr(fit.config), {}).setdefault(fit.name, fit)
    found: dict[tuple[str, str], Fit] = {}
    for config, names in networks.items():
        for fit in [fit for fit in names.values() if _of_its_library(fit)] or names.values():
            found.setdefault((config, repr(FAMILIES[fit.family].usual(fit.name, fit.config))), fit)
    return list(found.values())


def _of_its_library(fit: Fit) -> bool:
    """Returns whether the name is torchvision's where the names of tensors are, and another one elsewhere."""
    return (fit.name in FAMILIES[fit.family].torchvision) == (fit.naming == "torchvision")


def _hits(names: Iterable[str], rules: Sequence[Rule]) -> _Hits:
    together = "\n".join(names)
    known = Rules([rule for rule in rules if needed(rule.pattern) in together])  # compiles only rules that can match
    found = [first for name in names if (first := known.first(name))]
    met = {rule.pattern for rule, _ in found}
    unmet = sum(bool(rule.paths) and rule.pattern not in met for rule in rules)
    return _Hits(len(found), unmet, len(blocks_of(path for _, paths in found for path in paths)))


def _with_shapes(fit: Fit, tensors: Tensors) -> Fit:
    family = FAMILIES[fit.family]
    wanted = outline(family, fit.config)
    given = _given(tensors, tables(family, fit.config)[fit.naming])
    body = {path: shape for path, shape in given.items() if not path.startswith("head/")}
    mismatched = sum(wanted.get(path) != shape for path, shape in body.items())
    return fit._replace(absent=sum(path not in body for path in wanted), mismatched=mismatched)


def _given(tensors: Tensors, rules: Sequence[Rule]) -> Mapping[str, Any]:
    """Returns the shapes that a file's tensors have as parameters, by transforms of arrays that take no memory."""
    known = Rules(rules)
    given: dict[str, Any] = {}
    for name in tensors:
        rule, paths = known.first(name) or (None, ())
        if rule is None or not paths:
            continue
        entry = tensors.entry(name)
        try:
            parts = rule.transform.forward(np.broadcast_to(np.zeros((), entry.dtype), entry.shape))
        except ValueError:  # another layout: a shape that fits nothing
            parts = [None] * len(paths)
        for path, part in zip(paths, [parts] if isinstance(parts, np.ndarray) else parts, strict=True):
            given[path] = getattr(part, "shape", None)
    return given
