"""Injects faults into training runs and counts the outcomes.

    python benchmarks/faults.py --number 20

Kinds: SIGKILL at moments and file events, on 1 device, 8 devices and in 2 processes, for four families; exceptions
while a save is in flight; a full disk, folders that are read-only or moved, damaged checkpoints, other runs in the same
folder; NaN, infinities and huge numbers in inputs, labels and masked rows. Each trial is "survived" (the bits of an
undisturbed run) or "told" (an error names the cause); otherwise it is "wrong" or "lost", and the exit status is 1.
"""

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, get_args

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import tables
from benchmarks.injected import disk, interruptions, kills, values
from benchmarks.injected.trials import Outcome, Trial, apart
from benchmarks.kill_resume import FAMILIES
from benchmarks.measure import environment

ALONE = (
    interruptions.exceptions,
    interruptions.another,
    disk.full,
    disk.read_only,
    disk.moved,
    disk.damaged,
    values.inputs,
    values.labels,
    values.masked,
)
"""Faults whose trials all run in one process."""


def campaign(
    number: int, folder: Path, *, families: tuple[str, ...] = FAMILIES, seed: int = 0, say: Callable = print
) -> list[Trial]:
    """Runs all trials, `number` of each kind.

    Args:
      number: number of trials of a kind.
      folder: an empty folder.
      families: families of the runs that are killed.
      seed: seed of all choices.
      say: is called with reports of progress.
    """
    folder.chmod(0o755)  # for the trials without root's privileges
    trials: list[Trial] = []
    for work in ALONE:
        found = apart(work, number, seed, folder=folder / work.__name__)
        say(f"{work.__name__}: {dict(Counter(trial.outcome for trial in found))}")
        trials += found
    trials += interruptions.together(number, folder / "together", say)
    trials += kills.saves(number, folder / "saves", seed, say)
    return trials + kills.campaign(number, folder, families, seed, say)


def rows(trials: list[Trial]) -> list[dict[str, Any]]:
    """One row per kind, in the order of the trials."""
    counts: dict[str, Counter] = {}
    for trial in trials:
        counts.setdefault(trial.kind, Counter())[trial.outcome] += 1
    return [
        {"kind": kind, "tried": found.total(), **{name: found[name] for name in get_args(Outcome)}}
        for kind, found in counts.items()
    ]


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--number", type=int, default=4, help="of trials of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks" / "results" / "faults-cpu.json")
    asked = parser.parse_args()
    if asked.number < 1:
        parser.error(f"--number {asked.number}: try at least one of each kind")
    where, started = environment(sys.argv), time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        trials = campaign(asked.number, Path(folder), seed=asked.seed, say=partial(print, flush=True))
    bad = [trial for trial in trials if trial.outcome in ("wrong", "lost")]
    for trial in bad:
        print(f"{trial.outcome}: {trial.kind}: {trial.detail}")
    results = {
        "benchmark": "faults",
        "environment": where,
        "minutes": round((time.perf_counter() - started) / 60, 1),
        "rows": rows(trials),
        "setting": {"number": asked.number, "seed": asked.seed},
    }
    tables.write(results, asked.json)
    print(asked.json.with_suffix(".md").read_text())
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
