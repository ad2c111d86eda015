"""Layers between the blocks and the classifier, and those of them that a file's network does not use."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jtl.backbones.family import HEADLESS
from jtl.weights.mapping.rules import Rule, Rules

OF_TOKENS = ("ForTokenClassification", "ForQuestionAnswering")
"""The endings of transformers' class names whose head reads the tokens alone."""


def between(names: Sequence[str], tables: Mapping[str, Sequence[Rule]]) -> Iterator[tuple[str, Rule]]:
    """Yields the tensors of those layers and their rules, in the order of the rules; `tables[HEADLESS]` lacks them."""
    body = {rule.pattern for rule in tables[HEADLESS]}
    for rule in tables["transformers"]:
        if rule.pattern not in body and any(path.startswith("backbone/") for path in rule.paths):
            alone = Rules([rule])
            yield from ((name, rule) for name in names if alone.first(name))


def spare(
    names: Sequence[str], tables: Mapping[str, Sequence[Rule]], config: Mapping[str, Any], bare: bool
) -> tuple[bool, list[str]]:
    """Returns whether a file that has those layers is read without them, and the names of tensors to leave unread.

    A classifier of tokens or of answer spans ignores the pooler that older versions of transformers saved with it.
    RoBERTa's files may have a pooler in addition to the classifier's first layer, which takes its place.

    Args:
      names: the tensor names of the file.
      tables: the name tables of the family.
      config: a `config.json`, whose `architectures` name transformers' class.
      bare: whether no new classifier is requested, which would read the pooler.
    """
    if HEADLESS not in tables:
        return False, []
    found = list(between(names, tables))
    told = config.get("architectures")
    if bare and found and isinstance(told, (list, tuple)) and any(str(one).endswith(OF_TOKENS) for one in told):
        return True, [name for name, _ in found]
    first = {rule.path: rule for _, rule in reversed(found)}  # none of these rules has a regex group
    return False, [name for name, rule in found if first[rule.path] is not rule]
