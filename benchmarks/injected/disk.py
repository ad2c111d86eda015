"""Full disks, read-only or moved folders, and checkpoints with damaged files."""

import errno
import itertools
import os
import random
import resource
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.injected.trials import Outcome, Trial, told

NOBODY = 65534


def full(folder: Path, number: int, seed: int) -> list[Trial]:
    """Limits files to a random size, or makes a system call report that no space is left."""
    from benchmarks.injected import runs

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    small, rng, trials = runs.Small(), random.Random(seed), []
    wanted = small.fit(folder / "undisturbed")
    largest = max(path.stat().st_size for path in (folder / "undisturbed").rglob("*") if path.is_file())
    for how, i in itertools.product(("file size limit", "ENOSPC"), range(number)):
        place = folder / f"{how[0]}{i}"
        small.fit(place, steps=4)
        kept = small.saver(place).steps()
        limit = limited(rng.randint(0, largest)) if how[0] == "f" else no_space(rng.randint(1, 6))
        with limit as what:
            trials.append(_unwritten(f"no space, {how}", what, small, place, wanted))
        if trials[-1].outcome == "wrong":
            continue
        if max(small.saver(place).steps(), default=0) < max(kept):
            trials[-1] = trials[-1]._replace(outcome="lost", detail=f"{trials[-1].detail}; {kept} before")
    for trial, (how, i) in zip(trials, itertools.product("fE", range(number)), strict=True):
        if trial.outcome in ("told", "survived") and small.fit(folder / f"{how}{i}") != wanted:
            trials[trials.index(trial)] = trial._replace(outcome="wrong", detail=f"{trial.detail}; then other bits")
    return trials


def _unwritten(kind: str, what: str, small: Any, place: Path, wanted: str) -> Trial:
    try:
        found = small.fit(place)
    except (OSError, RuntimeError) as error:
        outcome: Outcome = "told" if told(error, str(place)) else "wrong"
        return Trial(kind, outcome, f"{what}: {type(error).__name__}: {str(error)[:300]}")
    return Trial(kind, "survived" if found == wanted else "wrong", f"{what}: no error")


@contextmanager
def limited(size: int) -> Iterator[str]:
    """Limits the files of this process to `size` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield f"files of at most {size} bytes"
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def no_space(call: int) -> Iterator[str]:
    """Makes the `call`-th `os.fsync` or `os.replace`, and those after it, report that no space is left."""
    calls, real = [0], {name: getattr(os, name) for name in ("fsync", "replace")}

    def failing(name: str) -> Callable:
        def called(*args: Any) -> Any:
            calls[0] += 1
            if calls[0] >= call:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real[name](*args)

        return called

    for name in real:
        setattr(os, name, failing(name))
    try:
        yield f"from call {call} of fsync or replace on"
    finally:
        for name, function in real.items():
            setattr(os, name, function)


@contextmanager
def powerless() -> Iterator[None]:
    """Drops the privileges of root, who may write anywhere."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


def read_only(folder: Path, number: int, seed: int) -> list[Trial]:
    """Makes a folder read-only: a run in it, or below it, gets an error that says so; its files can still be read."""
    from benchmarks.injected import runs

    del seed
    small, trials = runs.Small(), []
    os.chmod(folder, 0o755)
    small.fit(folder / "run", steps=4)
    wanted = runs.numbers(small.saver(folder / "run").variables())
    for path in (folder / "run", *(folder / "run").rglob("*")):
        os.chmod(path, 0o555 if path.is_dir() else 0o444)
    for i in range(number):
        place = folder / "run" if i % 2 == 0 else folder / "run" / "below" / str(i)
        with powerless():
            trials.append(_unwritten("read-only folder", "fit", small, place, "none"))
            try:
                same = runs.numbers(small.saver(folder / "run").variables()) == wanted
                trials.append(Trial("reading a read-only folder", "survived" if same else "wrong", "variables()"))
            except OSError as error:
                good = told(error, str(folder / "run"))
                trials.append(Trial("reading a read-only folder", "told" if good else "wrong", repr(error)))
    return trials


def moved(folder: Path, number: int, seed: int) -> list[Trial]:
    """Renames the folder of a run: after the run, and during it."""
    from benchmarks.injected import runs

    small, rng, trials = runs.Small(), random.Random(seed), []
    wanted = small.fit(folder / "undisturbed")
    for i in range(number):
        place = folder / f"before{i}"
        small.fit(place, steps=rng.randint(2, 10))
        place.rename(folder / f"after{i}")
        same = small.fit(folder / f"after{i}") == wanted
        trials.append(Trial("moved folder", "survived" if same else "wrong", "between two calls"))
    for i in range(number):
        place, at = folder / f"here{i}", rng.randint(2, 10)
        there = folder / f"there{i}"

        def move(moment: Any, place: Path = place, there: Path = there, at: int = at) -> None:
            if moment.step == at:
                place.rename(there)

        detail = f"after step {at}"
        try:
            same = small.fit(place, hooks=[move]) == wanted
            outcome: Outcome = "survived" if same else "wrong"
        except (OSError, RuntimeError) as error:
            outcome, detail = "told" if told(error, str(place)) else "wrong", f"{detail}: {str(error)[:200]}"
        again = small.fit(there)  # resumes from what was saved before
        if again != wanted:
            outcome, detail = "wrong", f"{detail}; other bits where it was moved to"
        trials.append(Trial("moved folder, while it runs", outcome, detail))
    return trials


DAMAGES: dict[str, Callable[[Path, random.Random], Any]] = {
    "flipped": lambda path, rng: path.write_bytes(_flipped(path.read_bytes(), rng)),
    "cut": lambda path, rng: os.truncate(path, rng.randrange(max(path.stat().st_size, 1))),
    "deleted": lambda path, rng: path.unlink(),
    "zeroed": lambda path, rng: path.write_bytes(bytes(path.stat().st_size)),
}


def _flipped(content: bytes, rng: random.Random) -> bytes:
    if not content:
        return b"\1"
    changed, at = bytearray(content), rng.randrange(len(content))
    changed[at] ^= 1 << rng.randrange(8)
    return bytes(changed)


def damaged(folder: Path, number: int, seed: int) -> list[Trial]:
    """Damages the files of the newest checkpoint and the frozen parameters in every way; `number` of each kind at most.

    The run must resume from the checkpoint before the damaged one, and the log must name the damaged folder. If the
    frozen parameters, which all checkpoints share, are damaged, an error must name them. No reader of the folder may
    return numbers that are not those of a checkpoint.
    """
    from benchmarks.injected import runs

    small, rng, trials, heard = runs.Small(), random.Random(seed), [], runs.Heard()
    wanted = small.fit(folder / "undisturbed")
    source = folder / "source"
    small.fit(source, steps=6)
    steps = small.saver(source).steps()
    right = {runs.numbers(small.saver(source).variables(step=step)) for step in steps}
    newest = small.saver(source).path(steps[-1])
    files = [path for part in (newest, *source.glob("frozen_*")) for path in part.rglob("*") if path.is_file()]
    for how, damage in DAMAGES.items():
        for path in files if number >= len(files) else rng.sample(files, number):
            place = folder / "damaged"
            shutil.copytree(source, place)
            name = path.relative_to(source)
            before = (place / name).read_bytes()
            damage(place / name, rng)
            if (place / name).exists() and (place / name).read_bytes() == before:
                shutil.rmtree(place)  # the damage changed nothing: zeros were zeros, or the file is empty
                continue
            trials.append(_resumed(f"damaged checkpoint, {how}", str(name), small, place, heard, wanted, right))
            shutil.rmtree(place)
    return trials


def _resumed(kind: str, name: str, small: Any, place: Path, heard: Any, wanted: str, right: set[str]) -> Trial:
    from benchmarks.injected import runs

    heard.lines.clear()
    try:
        if runs.numbers(small.saver(place).variables()) not in right:
            return Trial(kind, "wrong", f"{name}: variables() of no checkpoint")
    except (OSError, ValueError) as error:
        if not told(error, str(place)):
            return Trial(kind, "wrong", f"{name}: variables(): {error!r}")
    try:
        found = small.fit(place)
    except (OSError, ValueError) as error:
        return Trial(kind, "told" if told(error, str(place)) else "wrong", f"{name}: {str(error)[:300]}")
    named = any(str(place) in line for line in heard.lines) or name.endswith("manifest.json")
    good = found == wanted and named
    return Trial(kind, "survived" if good else "wrong", f"{name}: same bits {found == wanted}, log {heard.lines}")
