"""Injects faults into training runs and counts what they came to.

    python benchmarks/faults.py --number 20

Kinds: SIGKILL at moments and file events, on 1 device, 8 devices and in 2 processes, for four families; exceptions
while a save is in flight; a full disk, folders that are read-only or moved, damaged checkpoints, other runs in the
same folder; NaN, infinities and huge numbers in inputs, labels and masked rows. Each trial was survived (the bits of
an undisturbed run), told (an error names the thing), or else it is wrong or lost, and the exit status is 1.
"""

import argparse
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.injected import disk, interruptions, kills, values
from benchmarks.injected.trials import Trial, apart
from benchmarks.kill_resume import FAMILIES

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
"""Faults of which all trials are made in one process."""


def campaign(
    number: int, folder: Path, *, families: tuple[str, ...] = FAMILIES, seed: int = 0, say: Callable = print
) -> list[Trial]:
    """All trials, `number` of each kind.

    Args:
      number: of trials of a kind.
      folder: an empty one.
      families: of the runs that are killed.
      seed: of all choices.
      say: is told of progress.
    """
    trials = []
    for work in ALONE:
        trials += apart(work, number, seed, folder=folder / work.__name__)
        say(f"{work.__name__}: {dict(Counter(trial.outcome for trial in trials if trial.kind == trials[-1].kind))}")
    trials += interruptions.together(number, folder / "together", say)
    trials += kills.saves(number, folder / "saves", seed, say)
    return trials + kills.campaign(number, folder, families, seed, say)


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--number", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        trials = campaign(asked.number, Path(folder), seed=asked.seed, say=lambda line: print(line, flush=True))
    for t in trials:
        if t.outcome in ("wrong", "lost"):
            print(t)


if __name__ == "__main__":
    main()
