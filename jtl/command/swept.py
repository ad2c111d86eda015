"""The commands that `jtl sweep` runs, and the numbers of their runs."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tyro

from jtl.command.adapt_settings import AdaptSettings
from jtl.command.settings import Settings
from jtl.command.sweep import Execute, points
from jtl.selection.validators.watch import ORACLE

COMMANDS = ("adapt", "finetune", "train")


def ranking(command: Sequence[str], grid: Sequence[str], by: str | None) -> str:
    """The name of the number that ranks the runs.

    Raises:
      ValueError: for no command, one that is not swept, no recipe, or where the number must be named.
    """
    if not command or command[0] not in COMMANDS:
        given = " ".join(command)
        raise ValueError(f"{given!r} after --: give {', '.join(COMMANDS)} and its words, as -- adapt SOURCE TARGET ...")
    if command[0] == "train" and (len(command) < 2 or command[1].startswith("-")):
        raise ValueError(f"{' '.join(command)!r} after --: name a recipe or a .py file, as -- train digits")
    options = points(grid)
    if by is not None:
        return by
    if command[0] == "finetune":
        return "validation accuracy"
    if command[0] == "train":
        raise ValueError("--by: name the number of the recipe's result that ranks the runs")
    watched = {point.get("watch") for point in options}
    if watched != {None}:
        raise ValueError("--by: the grid has several values of watch, so name the score that ranks the runs")
    return _adapt([*command[1:], *(word for n, v in options[0].items() for word in (f"--{n.replace('_', '-')}", v))])[1]


def execute(recipe: Callable[[list[str]], Any]) -> Execute:
    """The function that runs the words of a command and returns the numbers of the run.

    Args:
      recipe: from the words after `train` to a recipe's result.
    """

    def run(words: list[str]) -> dict[str, float]:
        if words[0] == "train":
            return flat(recipe(words[1:]))
        if words[0] == "finetune":
            from jtl.command import report, tune

            settings = _parsed(Settings, words[1:])
            tuned = tune.run(settings, lambda line: None)
            report.write(settings, tuned)
            return {"validation accuracy": tuned.validation.accuracy, "test accuracy": tuned.test.accuracy}
        from jtl.command import adapt, adapt_report

        settings, _ = _adapt(words[1:])
        adapted = adapt.run(settings, lambda line: None)
        adapt_report.write(settings, adapted)
        numbers = {**adapted.scores["after"], "source test accuracy": adapted.source[1]}
        if adapted.target is not None:
            numbers["target accuracy"] = adapted.target[1].accuracy
        return numbers

    return run


def flat(tree: Mapping[str, Any], before: str = "") -> dict[str, float]:
    """The numbers of a nested result, by their path, as `dann/accuracy`.

    Example:
      >>> from jtl.command.swept import flat
      >>> flat({"failed": [], "dann": {"accuracy": 0.5}})
      {'dann/accuracy': 0.5}
    """
    found: dict[str, float] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{before}{name}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found[f"{before}{name}"] = float(value)
    return found


def _adapt(words: Sequence[str]) -> tuple[AdaptSettings, str]:
    settings = _parsed(AdaptSettings, words)
    return settings, ORACLE if settings.oracle else settings.watch


def _parsed(kind: Any, words: Sequence[str]) -> Any:
    return tyro.cli(kind, args=list(words), prog="jtl sweep ... --", config=(tyro.conf.OmitArgPrefixes,))
