"""Exceptions in hooks, loaders, evaluations and records while saves are in flight, and two runs in one folder."""

import itertools
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.injected.trials import CONTEXT, Trial, begin, told

CHANGES = [
    {"seed": 1},
    {"width": 9},
    {"rate": 0.06},
    {"momentum": 0.8},
    {"dropout": 0.2},
    {"batch": 10},
    {"clip": 1.0},
    {"ema": None},
    {"ema": 0.8},
    {"smoothing": 0.1},
    {"last": False},
    {"half": True},
    {"changed": True},
]
"""The options in which another run of `runs.Small` differs."""


class Thrown(Exception):
    """The injected fault."""


def slow_saves() -> None:
    """Makes every save of this process take longer, so that it is in flight when the fault comes."""
    from jtl.train.checkpoint import manifest

    write = manifest.write

    def later(*args: Any) -> None:
        time.sleep(0.05)
        write(*args)

    manifest.write = later


def exceptions(folder: Path, number: int, seed: int) -> list[Trial]:
    """Raises one at a random call of a hook, the loader, the validation or a record; the run is then started again."""
    from benchmarks.injected import runs

    slow_saves()
    small, rng, trials = runs.Small(), random.Random(seed), []
    wanted = small.fit(folder / "undisturbed")
    for where, i in itertools.product(("hook", "loader", "evaluation", "record"), range(number)):
        left = [rng.randint(2, {"evaluation": 6, "hook": 12, "record": 12, "loader": 9}[where])]

        def come(*_: Any, left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] == 0:
                raise Thrown("the fault")

        options: dict[str, Any] = {
            "hook": {"hooks": [come]},
            "loader": {"data": runs.Spoiled(small.data(), lambda step, batch, come=come: come() or batch)},
            "evaluation": {"validation": runs.validation(disturb=come)},
            "record": {"records": [Recorded(come)]},
        }[where]
        place, detail, outcome = folder / f"{where}{i}", f"at call {left[0]}", "survived"
        try:
            small.fit(place, **options)
            outcome, detail = "wrong", f"{detail}: the exception vanished"
        except Thrown:
            kept = small.saver(place).steps()
            again = small.fit(place)
            if again != wanted:
                outcome, detail = "wrong", f"{detail}, kept {kept}: other bits"
        trials.append(Trial(f"exception in a {where}", outcome, detail))
    return trials


class Recorded:
    """A record that calls the fault."""

    def __init__(self, come: Callable):
        self.write = come

    def start(self, step: int) -> None:
        """Nothing to open."""

    def close(self) -> None:
        """Nothing to close."""


def another(folder: Path, number: int, seed: int) -> list[Trial]:
    """Starts a run in another run's folder: it is refused with the difference, and the other run can continue."""
    from benchmarks.injected import runs

    small, rng, trials = runs.Small(), random.Random(seed), []
    wanted = small.fit(folder / "undisturbed")
    small.fit(folder / "run", steps=runs.STEPS // 2)
    changes = CHANGES if number >= len(CHANGES) else rng.sample(CHANGES, number)
    for change in changes:
        before = small.saver(folder / "run").steps()
        try:
            small._replace(**change).fit(folder / "run")
            trials.append(Trial("another run's folder", "wrong", f"{change}: no error"))
        except ValueError as error:
            good = told(error, str(folder / "run")) and small.saver(folder / "run").steps() == before
            trials.append(Trial("another run's folder", "told" if good else "wrong", f"{change}: {error}"))
    if small.fit(folder / "run") != wanted:
        trials.append(Trial("another run's folder", "wrong", "other bits of the run itself afterwards"))
    return trials


def together(number: int, folder: Path, say: Callable) -> list[Trial]:
    """Starts the same run in one folder in two processes at once: one is refused, the other ends as usual."""
    folder.mkdir()
    trials = []
    begun("undisturbed", folder)
    wanted = (folder / "undisturbed.digest0").read_text()
    for i in range(number):
        for child in [begun(str(i), folder, rank, wait=False) for rank in range(2)]:
            child.join()
        said = [folder / f"{i}.{what}{rank}" for rank in range(2) for what in ("digest", "error")]
        texts = {path.name.split(".")[1][:-1]: path.read_text() for path in said if path.exists()}
        refused = "another run, process" in texts.get("error", "") and str(folder / str(i)) in texts["error"]
        ended = [path for path in said if path.exists() and "digest" in path.name]
        right = all(path.read_text() == wanted for path in ended)
        # If the second starts after the first has ended, it finds nothing left to do.
        good = right and ((len(ended) == 1 and refused) or len(ended) == 2)
        trials.append(Trial("two runs in one folder", "told" if good and refused else "survived", str(texts)))
        if not good:
            trials[-1] = trials[-1]._replace(outcome="wrong")
    say(f"two runs in one folder: {[trial.outcome for trial in trials]}")
    return trials


def begun(name: str, folder: Path, rank: int = 0, wait: bool = True) -> Any:
    """Starts one of the processes."""
    child = CONTEXT.Process(target=one, args=(folder, name, rank))
    child.start()
    if wait:
        child.join()
    return child


def one(folder: Path, name: str, rank: int) -> None:
    """Trains, and writes the digest or the error."""
    begin(folder / f"{name}.log{rank}", 1, folder.parent / "compiled")
    from benchmarks.injected import runs

    try:
        found = runs.Small().fit(folder / name, hooks=[lambda moment: time.sleep(0.1)])
        (folder / f"{name}.digest{rank}").write_text(found)
    except RuntimeError as error:
        (folder / f"{name}.error{rank}").write_text(str(error))
