"""The commands that `jtl sweep` runs, and the numbers that their runs return."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tyro

from jtl.command import adaptations, parsers
from jtl.command.adapt_settings import AdaptSettings
from jtl.command.grid import points, refuse_twice, words_of
from jtl.command.sweep import Execute, Rank
from jtl.selection.validators.watch import ORACLE

COMMANDS = ("adapt", "finetune", "train")
ERRORS = ("validation RMSE", "test RMSE")
FINETUNED = {"classification": ("validation accuracy", "test accuracy"), "regression": ERRORS}
"""The numbers of a run of `jtl finetune` by its task; the first ranks the runs by default."""


def ranking(command: Sequence[str], grid: Sequence[str], by: str | None) -> str:
    """Returns the name of the number that ranks the runs.

    Raises:
      ValueError: for no command, a command that cannot be swept, no recipe, an option that the grid has too, a missing
        `by` that has no default, or a number that the runs do not have.
      SystemExit: for words that the command does not accept, at any point of the grid.
    """
    if not command or command[0] not in COMMANDS:
        given = " ".join(command)
        raise ValueError(f"{given!r} after --: give {', '.join(COMMANDS)} and its words, as -- adapt SOURCE TARGET ...")
    if command[0] == "train" and (len(command) < 2 or command[1].startswith("-")):
        raise ValueError(f"{' '.join(command)!r} after --: name a recipe or a .py file, as -- train digits")
    options = points(grid)
    refuse_twice(command[1:], list(options[0]))
    if command[0] == "train":  # only the recipe knows its options
        if by is None:
            raise ValueError("--by: name the number of the recipe's result that ranks the runs")
        return by
    watched = {point.get("watch") for point in options}
    if command[0] == "adapt" and by is None and watched != {None}:
        raise ValueError("--by: the grid has several values of watch, so name the score that ranks the runs")
    kind = parsers.Finetune if command[0] == "finetune" else parsers.Adapt
    # A mistake in an option ends the sweep before the first run.
    runs = [parsers.checked(_parsed(kind, [*command[1:], *words_of(point)])) for point in options]
    if command[0] == "adapt":
        return _watched(runs[0]) if by is None else by
    own = FINETUNED[runs[0].task]
    if by not in (None, *own):
        raise ValueError(f"--by {by!r}: the runs have the numbers {sorted(own)}")
    return own[0] if by is None else by


def favoured(ranks: Sequence[Rank], by: str) -> str | None:
    """Returns a note on the methods of a ranking that maximise the ranking score themselves; None if there are none.

    Args:
      ranks: the ranking of a sweep of `adapt`.
      by: the score that ranks.
    """
    methods = {rank.settings["method"] for rank in ranks if "method" in rank.settings}
    names = sorted(name for name in methods if by in adaptations.MAXIMISED.get(name, ()))
    if not names or len(methods) < 2:
        return None
    told = f"{by} is what the loss of {' and '.join(names)} maximises"
    return f"{told}, so it does not compare such a method with others: add --by clustering"


def execute(recipe: Callable[[list[str]], Any]) -> Execute:
    """Returns the function that runs the words of a command and returns the numbers of the run.

    Args:
      recipe: a function from the words after `train` to the recipe's result.
    """

    def run(words: list[str]) -> dict[str, float]:
        if words[0] == "train":
            return flat(recipe(words[1:]))
        if words[0] == "finetune":
            from jtl.command import report, tune

            settings = parsers.checked(_parsed(parsers.Finetune, words[1:]))
            tuned = tune.run(settings, lambda line: None)
            report.write(settings, tuned)
            both = {"validation": tuned.validation, "test": tuned.test}
            return {f"{part} {name}": value for part, one in both.items() for name, value in one.ranking.items()}
        from jtl.command import adapt, adapt_report

        settings = parsers.checked(_parsed(parsers.Adapt, words[1:]))
        adapted = adapt.run(settings, lambda line: None)
        adapt_report.write(settings, adapted)
        numbers = {**adapted.scores["after"], "source test accuracy": adapted.source[1]}
        if adapted.target is not None:
            numbers["target accuracy"] = adapted.target[1].accuracy
        return numbers

    return run


def flat(tree: Mapping[str, Any], before: str = "") -> dict[str, float]:
    """Returns the numbers of a nested result by path, such as `dann/accuracy`.

    Example:
      >>> from jtl.command.sweep_commands import flat
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


def _watched(settings: AdaptSettings) -> str:
    return ORACLE if settings.oracle else settings.watch


def _parsed(kind: Any, words: Sequence[str]) -> Any:
    return tyro.cli(kind, args=list(words), prog="jtl sweep ... --", config=(tyro.conf.OmitArgPrefixes,))
