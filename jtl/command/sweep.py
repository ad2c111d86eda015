"""Runs one command over a grid of its options, and ranks the runs by one of their numbers."""

import json
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jtl.command.device import out_of_memory, smaller
from jtl.command.grid import Point, name_of, points, words_of
from jtl.command.settings import writable
from jtl.command.written import write_table, write_whole
from jtl.report import Table, show
from jtl.report.bars import bars
from jtl.report.page import Links, Page
from jtl.train.loop import NonFiniteLoss

Execute = Callable[[list[str]], dict[str, float]]
"""A function from the words of a command, such as `["adapt", "a/", "b/", "--out", ...]`, to the numbers of the run."""


class Rank(NamedTuple):
    """The runs that differ only in their seed.

    Args:
      settings: the settings of the grid, without the seed.
      values: the number by which the sweep is ranked, one per seed whose run finished.
      numbers: the mean of every number over these seeds.
      seconds: the mean duration of a run.
      failed: how many runs failed.
      runs: the settings, with the seed, of the runs that finished, the best first.
    """

    settings: Point
    values: tuple[float, ...]
    numbers: dict[str, float]
    seconds: float
    failed: int = 0
    runs: tuple[Point, ...] = ()

    @property
    def mean(self) -> float:
        """The mean of `values` over seeds; NaN if no run finished."""
        return float(np.mean(self.values)) if self.values else float("nan")

    @property
    def half(self) -> float:
        """Half the width of Student's 95 % interval over seeds; 0 for a single seed, which has no interval."""
        from scipy.special import stdtrit

        n = len(self.values)
        return float(stdtrit(n - 1, 0.975) * np.std(self.values, ddof=1) / np.sqrt(n)) if n > 1 else 0.0

    @property
    def name(self) -> str:
        """The settings in words."""
        return told(self.settings) or "all seeds"


def told(settings: Mapping[str, str]) -> str:
    """Formats settings, such as `method=mcc, learning_rate=1e-4`."""
    return ", ".join(f"{name}={value}" for name, value in settings.items())


def run(command: Sequence[str], grid: Sequence[str], out: Path, execute: Execute) -> list[dict[str, Any]]:
    """Executes the runs that are missing, and returns the rows of all runs; `sweep.json` in `out` keeps them.

    A run that fails does not end the sweep: it gets a row without numbers. A diverged run is not repeated, because it
    would diverge again. A run that was refused, or ran out of memory, is, because the cause may have been removed.

    Args:
      command: the words of the command, without the options of the grid.
      grid: see `points`.
      out: the folder of the sweep, with a subfolder for each run.
      execute: executes one run.

    Returns:
      Rows `{"settings", "numbers", "seconds"}` of the grid's points, in order; a failed one has no numbers, and the
      error's message as `diverged` or `refused`.

    Raises:
      ValueError: for an invalid grid, or a folder with a sweep of another command.
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
            f"{str(out)!r} holds the sweep of another command, {shlex.join(before['command'])!r}; give another folder"
        )
    rows = before["rows"]
    out.mkdir(parents=True, exist_ok=True)
    for i, point in enumerate(wanted):
        if any(row["settings"] == point and "refused" not in row for row in rows):
            continue
        rows[:] = [row for row in rows if row["settings"] != point]
        words = words_of(point)
        print(f"run {i + 1} of {len(wanted)}: {shlex.join(words)}", flush=True)
        began = time.perf_counter()
        row: dict[str, Any] = {"settings": point, "numbers": {}}
        try:
            row["numbers"] = execute([*command, *words, "--out", str(out / name_of(point))])
        except Exception as error:  # jax has one error for every failure at run time; its text tells why
            if not (full := out_of_memory(error)) and not isinstance(error, NonFiniteLoss | ValueError | OSError):
                raise
            why = smaller(error) if full else str(error)
            row["diverged" if isinstance(error, NonFiniteLoss) else "refused"] = why
            print(f"run {i + 1} failed: {why}", flush=True)
        rows.append({**row, "seconds": round(time.perf_counter() - began, 2)})
        write_whole(file, json.dumps({"command": list(command), "rows": rows}, indent=1) + "\n")
    return [next(row for row in rows if row["settings"] == point) for point in wanted]


def failure(row: Mapping[str, Any]) -> str | None:
    """Returns why a run has no numbers; None if it has."""
    return row.get("diverged", row.get("refused"))


def failures(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Returns the settings of the failed runs, each with the reason."""
    return [(told(row["settings"]), why) for row in rows if (why := failure(row)) is not None]


def ranked(rows: Sequence[Mapping[str, Any]], by: str, low: bool = False) -> list[Rank]:
    """Groups runs that differ only in their seed, and ranks them, the best mean first; groups with failures come last.

    Args:
      rows: the result of `run`.
      by: the name of a number.
      low: whether lower is better.

    Raises:
      ValueError: if a run has no such number, the number is NaN in all settings, or no run finished.
    """
    groups: dict[tuple, list[Mapping[str, Any]]] = {}
    for row in rows:
        if failure(row) is None and by not in row["numbers"]:
            raise ValueError(f"--by {by!r}: the runs have the numbers {sorted(row['numbers'])}")
        groups.setdefault(tuple((n, v) for n, v in row["settings"].items() if n != "seed"), []).append(row)
    whole = [row["numbers"] for row in rows if failure(row) is None]
    if not whole:
        lines = "\n".join(f"{settings}: {why}" for settings, why in failures(rows))
        raise ValueError(f"all {len(rows)} runs of the sweep failed:\n{lines}")
    found = []
    for settings, own in groups.items():
        held = [row for row in own if failure(row) is None]
        finished = [row["numbers"] for row in held]
        names = [name for name in (finished or whole)[0] if all(name in numbers for numbers in finished)]
        numbers = {n: float(np.mean([one[n] for one in finished])) if finished else float("nan") for n in names}
        values, failed = tuple(float(one[by]) for one in finished), len(failures(own))
        order = np.argsort(values if low else np.negative(values), kind="stable")  # NaN comes last
        runs, seconds = tuple(held[i]["settings"] for i in order), float(np.mean([row["seconds"] for row in own]))
        found.append(Rank(dict(settings), values, numbers, seconds, failed, runs))
    if all(np.isnan(rank.mean) for rank in found):
        raise ValueError(f"--by {by!r}: it is no number (NaN) in any setting, so nothing can be ranked by it")
    # Settings with failures come last, and NaN after these, because NaN has no place in an order.
    return sorted(found, key=lambda r: (bool(np.isnan(r.mean)), r.failed > 0, r.mean if low else -r.mean))


def write(
    ranks: Sequence[Rank],
    by: str,
    out: Path,
    command: Sequence[str],
    note: str | None = None,
    failed: Sequence[tuple[str, str]] = (),
) -> Path:
    """Prints the ranking, and writes `sweep.html` and `sweep.csv`; returns the page.

    Args:
      ranks: the ranking, the best first.
      by: the name of the number that ranks.
      out: the sweep's folder.
      command: the words of the command that was run.
      note: a note for the reader about the ranking.
      failed: the failed runs, each with the reason, as `failures` returns them.
    """
    others = [name for name in ranks[0].numbers if name != by and all(name in rank.numbers for rank in ranks)]
    columns = ("settings", by, *others, "seeds", "seconds", *["failed"] * bool(failed))
    spread = [f"{rank.mean:.4g}" + (f" ± {rank.half:.2g}" if rank.half else "") for rank in ranks]
    rows = []
    for rank, mean in zip(ranks, spread, strict=True):
        seeds, seconds = str(len(rank.values) + rank.failed), f"{rank.seconds:.1f}"
        numbers = (f"{rank.numbers[name]:.4g}" for name in others)
        rows.append((rank.name, mean, *numbers, seeds, seconds, *[str(rank.failed)] * bool(failed)))
    title = f"ranked by {by}, mean over seeds with its 95 % interval"
    if "ORACLE" in by:
        title += "; ORACLE: by the labels of the target, which a user does not have"
    show(Table(title, columns, rows))
    write_table(out / "sweep.csv", [columns, *rows])
    if note is not None:
        print(note)
    page = Page(f"Sweep of jtl {shlex.join(command)}")
    page.say(f"Best: {ranks[0].name}", "big")
    runs = list(ranks[0].runs)
    if runs:
        page.say(f"Its {'best run' if len(runs) > 1 else 'run'}: the folder {name_of(runs[0])}")
    page.say(title, "note" if "ORACLE" in by else "")
    if note is not None:
        page.say(note, "note")
    links = [_reports(rank, out) for rank in ranks]
    if any(cell.files for cell in links):
        page.table((*columns, "reports"), [(*row, cell) for row, cell in zip(rows, links, strict=True)])
    else:  # of a recipe, which writes none
        page.table(columns, rows)
    page.figure(
        lambda path: bars({r.name: (r.mean, r.half) for r in ranks if not np.isnan(r.mean)}, path, xlabel=by),
        f"{by} of each setting, the best above",
    )
    if failed:
        page.heading("Runs that failed")
        page.table(("settings", "why"), failed)
    return page.write(out / "sweep.html")


def _reports(rank: Rank, out: Path) -> Links:
    """Returns links to the reports of the runs, the best first, named by the seed if the grid has one."""
    found = []
    for run in rank.runs:
        file = Path(name_of(run), "report.html")
        if (out / file).is_file():
            found.append((f"seed {run['seed']}" if "seed" in run else "report", file.as_posix()))
    return Links(tuple(found))
