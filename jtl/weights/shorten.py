"""The first stages of a network alone."""

import re
from collections.abc import Iterable, Sequence

from jtl.weights.families import Config, Family
from jtl.weights.names import Rule
from jtl.weights.outline import outline
from jtl.weights.presets import tables
from jtl.weights.recognise import union

_TOLD_AGAIN = {"stage_names", "out_features", "out_indices"}  # in transformers' configs, of all stages


def shortened(
    family: Family, config: Config, kind: str, stages: int, names: Iterable[str]
) -> tuple[Config, Sequence[Rule], list[str]]:
    """What is read where only `stage1` to `stageN` are wanted.

    Args:
      family: of the network.
      config: complete.
      kind: the file's naming.
      stages: how many.
      names: of the file.

    Returns:
      The smaller network's config and name table, and the names that belong to the rest.

    Raises:
      ValueError: the network has fewer, or is not read in part.
    """
    model = config["model_type"]
    if not family.depth:
        raise ValueError(f"stages={stages}: of {model} all is read; its features are given for every stage")
    depth = config[family.depth[0]]
    count = depth if isinstance(depth, int) else len(depth)
    if not 1 <= stages <= count:
        raise ValueError(f"stages={stages}: this {model} has {count}; give 1 to {count}")
    short = {name: value for name, value in config.items() if name not in _TOLD_AGAIN}
    for name in family.depth:
        if name in short:
            short[name] = stages if isinstance(short[name], int) else list(short[name][:stages])
    dropped = outline(family, config).keys() - outline(family, short)
    before, after = tables(family, config)[kind], tables(family, short)[kind]
    known, kept = union(before), union(after)  # a counter of the rest has a rule, but no path
    rules = [(re.compile(rule.pattern), rule) for rule in before]

    def rest(name: str) -> bool:
        return bool(_target(rules, name) & dropped or (known.fullmatch(name) and not kept.fullmatch(name)))

    return short, after, [name for name in names if rest(name)]


def _target(rules: Sequence[tuple[re.Pattern[str], Rule]], name: str) -> set[str]:
    for pattern, rule in rules:
        match = pattern.fullmatch(name)
        if match:
            return {match.expand(path) for path in rule.paths}
    return set()
