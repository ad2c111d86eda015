"""Layers between the blocks and the classifier, and those of them with which a file's network does not compute."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jtl.backbones.family import HEADLESS
from jtl.weights.mapping.rules import Rule, Rules

OF_TOKENS = ("ForTokenClassification", "ForQuestionAnswering")
"""How transformers ends the names of classes whose head reads the tokens alone."""


def between(names: Sequence[str], tables: Mapping[str, Sequence[Rule]]) -> Iterator[tuple[str, Rule]]:
    """The tensors of those layers and their rules, in the order of the rules; `tables` has one without them."""
    body = {rule.pattern for rule in tables[HEADLESS]}
    for rule in tables["transformers"]:
        if rule.pattern not in body and any(path.startswith("backbone/") for path in rule.paths):
            alone = Rules([rule])
            yield from ((name, rule) for name in names if alone.first(name))


def spare(
    names: Sequence[str], tables: Mapping[str, Sequence[Rule]], config: Mapping[str, Any], bare: bool
) -> tuple[bool, list[str]]:
    """Whether a file is read without those layers although it has some, and the names of what is left unread.

    A classifier of tokens or of answers' ends passes over the pooler that older versions of transformers saved with it.
    RoBERTa's pooler lies beside the classifier's first layer, which stands in its place.

    Args:
      names: of the file.
      tables: of the family.
      config: a `config.json`, whose `architectures` name transformers' class.
      bare: whether no new classifier is asked for, which would read the pooler.
    """
    if HEADLESS not in tables:
        return False, []
    found = list(between(names, tables))
    told = config.get("architectures")
    if bare and found and isinstance(told, (list, tuple)) and any(str(one).endswith(OF_TOKENS) for one in told):
        return True, [name for name, _ in found]
    first = {rule.path: rule for _, rule in reversed(found)}  # no rule of these has a group
    return False, [name for name, rule in found if first[rule.path] is not rule]
