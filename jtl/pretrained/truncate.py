"""Truncates networks to their first stages."""

from collections.abc import Iterable, Sequence

from jtl.backbones.registry import Config, Family
from jtl.pretrained.outline import outline
from jtl.pretrained.presets import tables
from jtl.weights.mapping.rules import Rule, Rules

_TOLD_AGAIN = {"stage_names", "out_features", "out_indices"}  # entries of transformers' configs that list all stages


def shortened(
    family: Family, config: Config, kind: str, stages: int, names: Iterable[str]
) -> tuple[Config, Sequence[Rule], list[str]]:
    """Reduces a network to `stage1` to `stageN`.

    Args:
      family: the network's family.
      config: the complete config.
      kind: the naming scheme of the file.
      stages: the number of stages, N.
      names: the tensor names of the file.

    Returns:
      The smaller network's config and name table, and the tensor names that belong to the rest.

    Raises:
      ValueError: if the network has fewer stages, or cannot be read in part.
    """
    model = config.model_type
    if not family.depth:
        raise ValueError(f"stages={stages}: of {model} all is read; its features are given for every stage")
    depth = getattr(config, family.depth[0])
    count = depth if isinstance(depth, int) else len(depth)
    if not 1 <= stages <= count:
        raise ValueError(f"stages={stages}: this {model} has {count}; give 1 to {count}")
    entries = {name: value for name, value in config.to_dict().items() if name not in _TOLD_AGAIN}
    for name in family.depth:
        if name in entries:
            entries[name] = stages if isinstance(entries[name], int) else entries[name][:stages]
    short = family.complete(entries)
    dropped = outline(family, config).keys() - outline(family, short)
    table = tables(family, short)[kind]
    before, after = Rules(tables(family, config)[kind]), Rules(table)

    def rest(name: str) -> bool:
        found = before.first(name)
        # A batch counter of the rest has a rule, but no path.
        return found is not None and (not dropped.isdisjoint(found[1]) or after.first(name) is None)

    return short, table, [name for name in names if rest(name)]
