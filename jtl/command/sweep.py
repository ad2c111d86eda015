"""Many runs of one command over a grid of its options, ranked by a number of each run."""

import csv
import itertools
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jtl.command.settings import writable
from jtl.report import Table, show
from jtl.report.bars import bars
from jtl.report.page import Page

Point = dict[str, str]
Execute = Callable[[list[str]], dict[str, float]]
"""From the words of a command, as `["adapt", "a/", "b/", "--out", ...]`, to the numbers of the run."""


class Rank(NamedTuple):
    """The runs that differ only in their seed.

    Args:
      settings: of the grid, without the seed.
      values: the number by which the sweep is ranked, one a seed.
      numbers: all numbers, their mean over seeds.
      seconds: mean of a run.
    """

    settings: Point
    values: tuple[float, ...]
    numbers: dict[str, float]
    seconds: float

    @property
    def mean(self) -> float:
        """Over seeds."""
        return float(np.mean(self.values))

    @property
    def half(self) -> float:
        """Half the width of Student's 95 % interval over seeds; 0 for one seed, which has none."""
        from scipy.special import stdtrit

        n = len(self.values)
        return float(stdtrit(n - 1, 0.975) * np.std(self.values, ddof=1) / np.sqrt(n)) if n > 1 else 0.0

    @property
    def name(self) -> str:
        """As `method=mcc, learning_rate=1e-4`."""
        return ", ".join(f"{name}={value}" for name, value in self.settings.items()) or "all seeds"


def points(grid: Sequence[str]) -> list[Point]:
    """All combinations of a grid's values, in order.

    Args:
      grid: each an option with its values, as `method=mcc,dann`.

    Raises:
      ValueError: for no option, one without values, or one that is there twice.

    Example:
      >>> from jtl.command.sweep import points
      >>> points(["method=mcc,dann", "seed=0"])
      [{'method': 'mcc', 'seed': '0'}, {'method': 'dann', 'seed': '0'}]
    """
    found: dict[str, list[str]] = {}
    for given in grid:
        name, _, text = given.partition("=")
        name, values = name.strip().lstrip("-").replace("-", "_"), [v.strip() for v in text.split(",")]
        if not name or not all(values) or len(set(values)) < len(values):
            raise ValueError(f"--grid {given!r}: give an option and its different values, as method=mcc,dann")
        if name in found:
            raise ValueError(f"--grid {given!r}: the option {name!r} is there twice; give all its values together")
        if name == "out":
            raise ValueError("--grid out: each run has a folder of its own already")
        found[name] = values
    if not found:
        raise ValueError("no --grid: give options and their values, as --grid method=mcc,dann seed=0,1,2")
    return [dict(zip(found, values, strict=True)) for values in itertools.product(*found.values())]


def words_of(point: Mapping[str, str]) -> list[str]:
    """The words of a point of the grid.

    Example:
      >>> words_of({"learning_rate": "0.1"})
      ['--learning-rate', '0.1']
    """
    return [word for name, value in point.items() for word in (f"--{name.replace('_', '-')}", value)]


def run(command: Sequence[str], grid: Sequence[str], out: Path, execute: Execute) -> list[dict[str, Any]]:
    """Runs what was not run before, and returns all rows; `sweep.json` in `out` keeps them.

    Args:
      command: its words without the options of the grid.
      grid: as of `points`.
      out: the folder of the sweep, with one of each run.
      execute: runs one.

    Returns:
      Rows `{"settings", "numbers", "seconds"}` of the grid's points, in order.

    Raises:
      ValueError: for a grid that is none, or a folder with a sweep of another command.
    """
    wanted, file = points(grid), out / "sweep.json"
    writable(out, "OUT")
    before = {"command": list(command), "rows": []}
    if file.is_file():
        try:
            before = json.loads(file.read_text(encoding="utf-8"))
            if not isinstance(before, dict) or not {"command", "rows"} <= before.keys():
                raise ValueError("it has no command and no rows")
        except ValueError as error:
            raise ValueError(
                f"{str(file)!r} is not as a sweep writes it: {error}; give another folder, or delete the file"
            ) from error
    if before["command"] != list(command):
        raise ValueError(
            f"{str(out)!r} holds the sweep of another command, {' '.join(before['command'])!r}; give another folder"
        )
    rows = before["rows"]
    out.mkdir(parents=True, exist_ok=True)
    for i, point in enumerate(wanted):
        if any(row["settings"] == point for row in rows):
            continue
        words = words_of(point)
        folder = out / "-".join(f"{name}={value.replace('/', '_')}" for name, value in point.items())
        print(f"run {i + 1} of {len(wanted)}: {' '.join(words)}", flush=True)
        began = time.perf_counter()
        numbers = execute([*command, *words, "--out", str(folder)])
        rows.append({"settings": point, "numbers": numbers, "seconds": round(time.perf_counter() - began, 2)})
        part = file.with_suffix(".part")
        part.write_text(json.dumps({"command": list(command), "rows": rows}, indent=1) + "\n", encoding="utf-8")
        part.replace(file)  # never half of it, even where the process is killed
    return [next(row for row in rows if row["settings"] == point) for point in wanted]


def ranked(rows: Sequence[Mapping[str, Any]], by: str, low: bool = False) -> list[Rank]:
    """Runs that differ in their seed together, the best mean first.

    Args:
      rows: of `run`.
      by: the name of a number.
      low: whether a low number is good.

    Raises:
      ValueError: where a run has no such number, or it is NaN in all settings.
    """
    groups: dict[tuple, list[Mapping[str, Any]]] = {}
    for row in rows:
        if by not in row["numbers"]:
            raise ValueError(f"--by {by!r}: the runs have the numbers {sorted(row['numbers'])}")
        groups.setdefault(tuple((n, v) for n, v in row["settings"].items() if n != "seed"), []).append(row)
    found = []
    for settings, own in groups.items():
        names = [name for name in own[0]["numbers"] if all(name in row["numbers"] for row in own)]
        numbers = {name: float(np.mean([row["numbers"][name] for row in own])) for name in names}
        values = tuple(float(row["numbers"][by]) for row in own)
        found.append(Rank(dict(settings), values, numbers, float(np.mean([row["seconds"] for row in own]))))
    if all(np.isnan(rank.mean) for rank in found):
        raise ValueError(f"--by {by!r}: it is no number (NaN) in any setting, so nothing can be ranked by it")
    # A run that went wrong is last: no order of numbers has a place for NaN.
    return sorted(found, key=lambda rank: (bool(np.isnan(rank.mean)), rank.mean if low else -rank.mean))


def write(ranks: Sequence[Rank], by: str, out: Path, command: Sequence[str], note: str | None = None) -> Path:
    """Prints the ranking, and writes `sweep.html` and `sweep.csv`; returns the page.

    Args:
      ranks: the best first.
      by: the number that ranks them.
      out: the sweep's folder.
      command: that was run.
      note: what a reader should know of the ranking.
    """
    others = [name for name in ranks[0].numbers if name != by and all(name in rank.numbers for rank in ranks)]
    columns = ("settings", by, *others, "seeds", "seconds")
    spread = [f"{rank.mean:.4g}" + (f" ± {rank.half:.2g}" if rank.half else "") for rank in ranks]
    rows = [
        (rank.name, told, *(f"{rank.numbers[n]:.4g}" for n in others), str(len(rank.values)), f"{rank.seconds:.1f}")
        for rank, told in zip(ranks, spread, strict=True)
    ]
    title = f"ranked by {by}, mean over seeds with its 95 % interval"
    if "ORACLE" in by:
        title += "; ORACLE: by the labels of the target, which a user does not have"
    show(Table(title, columns, rows))
    if note is not None:
        print(note)
    page = Page(f"Sweep of jtl {' '.join(command)}")
    page.say(f"Best: {ranks[0].name}", "big")
    page.say(title, "note" if "ORACLE" in by else "")
    if note is not None:
        page.say(note, "note")
    page.table(columns, rows)
    page.figure(
        lambda path: bars({r.name: (r.mean, r.half) for r in ranks if not np.isnan(r.mean)}, path, xlabel=by),
        f"{by} of each setting, the best above",
    )
    with open(out / "sweep.csv", "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([columns, *rows])
    return page.write(out / "sweep.html")
