"""SIGKILL at chosen moments and file events of training runs, which are then restarted."""

import itertools
import os
import random
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.injected.trials import CONTEXT, PATIENCE, Trial, begin

LAYOUTS = {"1 device": (1, 1), "8 devices": (1, 8), "2 processes": (2, 1)}
"""The number of processes, and of devices in each."""
MOMENTS = ("step", "compile", "evaluation", "save", "file", "prune")
STEPS, EVERY, KEEP = 24, 3, 2
FILE_EVENTS = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate")
"""Audit events before which "file" kills; "prune" only before the last four, which replace and remove."""


class Kill(NamedTuple):
    """When to kill: at the `number`-th moment of a kind, `delay` seconds after it, and in which process."""

    moment: str
    number: int
    delay: float
    process: int


def campaign(number: int, folder: Path, families: tuple[str, ...], seed: int, say: Callable) -> list[Trial]:
    """Kills `number` runs at each moment in each layout; families take turns."""
    rng, trials = random.Random(seed), []
    for layout in LAYOUTS:
        plan: dict[str, list[str]] = {family: [] for family in families}
        turns = itertools.cycle(families)
        for moment in MOMENTS * number:
            plan[next(turns)].append(moment)
        for family, moments in plan.items():
            place = folder / f"{layout} {family}".replace(" ", "_")
            place.mkdir()
            trials += _chain(layout, family, moments, place, rng) if moments else []
            say(f"{family} on {layout}: {[trial.outcome for trial in trials[-len(moments) :]]}")
    return trials


def _chain(layout: str, family: str, moments: list[str], place: Path, rng: random.Random) -> list[Trial]:
    """Kills one run repeatedly; when little of it is left, it is finished and compared, and another is started."""
    wanted = _finished(layout, family, place / "undisturbed")
    trials: list[Trial] = []
    pending: list[Trial] = []
    folders = (place / f"killed{i}" for i in itertools.count())
    folder = next(folders)
    for moment in moments:
        kind = f"SIGKILL, {moment}, {layout}"
        while True:
            before = intact(folder)
            if max(before, default=0) > STEPS - 9:
                trials += _compared(layout, family, folder, wanted, pending)
                pending, folder, before = [], next(folders), {}
            kill = _planned(moment, max(before, default=0), layout, rng)
            killed = _run(layout, family, folder, kill)
            if killed:
                break
            # The moment did not come: the run has ended, and another one is started.
            trials += _compared(layout, family, folder, wanted, pending)
            pending, folder = [], next(folders)
        try:
            after, lost = intact(folder), []
        except ValueError as error:
            after, lost = {}, [f"a finished save is damaged: {error}"]
        if before and max(after, default=0) < max(before):
            lost = [f"step {max(before)} was whole before, and {sorted(after)} are after"]
        best, now = _best(before), _best(after)
        if best is not None and (now is None or now < best):
            lost += [f"the best score {best} became {now}"]
        pending.append(Trial(kind, "lost" if lost else "survived", f"{family}, {kill}: {lost}"))
    return trials + _compared(layout, family, folder, wanted, pending)


def _planned(moment: str, now: int, layout: str, rng: random.Random) -> Kill:
    process = rng.randrange(LAYOUTS[layout][0])
    number, delay = {
        "step": (now + rng.randint(1, 6), rng.choice((0, rng.uniform(0, 0.02)))),
        "compile": (1, rng.uniform(0, 0.4)),
        "evaluation": (rng.randint(1, 4), 0),
        "save": (rng.randint(1, 3), rng.uniform(0, 0.08)),
        "file": (rng.randint(1, 40), 0),
        "prune": (rng.randint(1, 12), 0),
    }[moment]
    return Kill(moment, number, delay, 0 if moment == "prune" else process)


def _compared(layout: str, family: str, folder: Path, wanted: str, pending: list[Trial]) -> list[Trial]:
    """Finishes a killed run and returns its trials: if the bits differ, all of them are wrong."""
    if not pending:
        return []
    try:
        found = _finished(layout, family, folder)
    except RuntimeError as error:
        return [trial._replace(outcome="wrong", detail=f"{trial.detail}; cannot resume: {error}") for trial in pending]
    if found == wanted:
        return pending
    return [trial._replace(outcome="wrong", detail=f"{trial.detail}; other bits") for trial in pending]


def intact(folder: Path) -> dict[int, float | None]:
    """The scores of the finished checkpoints by step; raises if one is damaged, which must not happen."""
    from jtl.train.checkpoint import manifest

    return {
        int(path.parent.name[5:]): manifest.verify(path.parent)["score"]
        for path in sorted(folder.glob("step_*/manifest.json"))
    }


def _best(scores: dict[int, float | None]) -> float | None:
    return max((score for score in scores.values() if score is not None), default=None)


def _finished(layout: str, family: str, folder: Path) -> str:
    if _run(layout, family, folder, None):
        raise RuntimeError(f"the run in {folder} did not end: {_said(folder)}")
    (found,) = {path.read_text() for path in folder.parent.glob(f"{folder.name}.digest*")}
    return found


def _said(folder: Path) -> str:
    return "\n".join(path.read_text()[-2000:] for path in sorted(folder.parent.glob(f"{folder.name}.log*")))


def _run(layout: str, family: str, folder: Path, kill: Kill | None) -> bool:
    """Runs until the end or the kill; returns whether a process was killed. Raises if a process fails."""
    processes, devices = LAYOUTS[layout]
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    running = [
        CONTEXT.Process(target=work, args=(family, folder, devices, rank, processes, port, kill))
        for rank in range(processes)
    ]
    for process in running:
        process.start()
    until, codes = time.monotonic() + PATIENCE, [None] * processes
    while time.monotonic() < until and any(code is None for code in codes):
        time.sleep(0.01)
        codes = [process.exitcode for process in running]
        if -signal.SIGKILL in codes:
            break
    codes = [process.exitcode for process in running]
    for process in running:  # as a scheduler does if one process of several died
        process.kill()
        process.join()
    if -signal.SIGKILL in codes:
        return True
    if codes != [0] * processes:
        raise RuntimeError(f"{family} in {folder} ended with {codes}: {_said(folder)}")
    return False


def work(family: str, folder: Path, devices: int, rank: int, processes: int, port: int, kill: Kill | None) -> None:
    """One process of a run, in a forked child."""
    begin(folder.with_name(f"{folder.name}.log{rank}"), devices, folder.parent.parent / "compiled")
    import jax

    import jtl
    from benchmarks.injected import runs
    from benchmarks.kill_resume import SEED, build

    if processes > 1:
        jtl.distributed.initialize(f"localhost:{port}", processes, rank)
    step, variables, data = build(family)
    saver = jtl.Checkpoints(folder, every=EVERY, keep=KEEP)
    validation = runs.validation(rows=8 // processes)
    hooks = []
    if kill is not None and kill.process == rank:
        hooks = [_plant(kill, folder, validation)]
    state = step.init(variables, jax.random.key(SEED))
    rows = runs.Slice(data, rank, processes)
    done = jtl.fit(
        step, state, rows, steps=STEPS, checkpoints=saver, validation=validation, hooks=hooks, progress=False
    )
    folder.with_name(f"{folder.name}.digest{rank}").write_text(runs.digest(done.state))
    sys.stdout.flush()


def _plant(kill: Kill, folder: Path, validation: Any) -> Callable:
    """Arranges the kill; returns a hook."""
    left = [kill.number]

    def come() -> None:
        left[0] -= 1
        if left[0] == 0:
            if kill.delay == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            threading.Thread(target=lambda: (time.sleep(kill.delay), os.kill(os.getpid(), signal.SIGKILL))).start()

    def before(owner: Any, name: str) -> None:
        method = getattr(owner, name)

        def called(*args: Any, **named: Any) -> Any:
            come()
            return method(*args, **named)

        setattr(owner, name, called)

    if kill.moment == "compile":
        import jax

        before(jax.stages.Lowered, "compile")
    elif kill.moment == "evaluation":
        validation.data.disturb = come
    elif kill.moment == "save":
        import jtl

        before(jtl.Checkpoints, "save")
    elif kill.moment in ("file", "prune"):
        names = FILE_EVENTS if kill.moment == "file" else FILE_EVENTS[2:]

        def audit(event: str, args: tuple) -> None:
            if event in names and any(str(folder) in str(one) for one in args[:2]):
                come()

        sys.addaudithook(audit)

    def hook(moment: Any) -> None:
        if kill.moment == "step" and moment.step == kill.number:
            left[0] = 1
            come()

    return hook


def saves(number: int, folder: Path, seed: int, say: Callable) -> list[Trial]:
    """Kills `jtl.save` at file events while it replaces a save: the old or the new one must be there afterwards."""
    from benchmarks.injected import saved

    folder.mkdir()
    rng = random.Random(seed)
    trials = list(_saves(number, folder, rng, saved.write, saved.look))
    say(f"jtl.save: {[trial.outcome for trial in trials]}")
    return trials


def _saves(number: int, folder: Path, rng: random.Random, write: Callable, look: Callable) -> Iterator[Trial]:
    events = [*range(1, 1 + number // 2), *(rng.randint(1, 40) for _ in range(number - number // 2))]
    for i, event in enumerate(events):
        place = folder / str(i)
        first = CONTEXT.Process(target=write, args=(place, 0, None))
        first.start()
        first.join()
        child = CONTEXT.Process(target=write, args=(place, 1, event))
        child.start()
        child.join()
        detail = f"before file event {event}, exit {child.exitcode}"
        found = look(place)
        if child.exitcode == 0:
            yield Trial("SIGKILL, jtl.save", "survived" if found == "1" else "wrong", f"{detail}, ended: {found}")
        else:
            outcome = "survived" if found in ("0", "1") else "lost"
            yield Trial("SIGKILL, jtl.save", outcome, f"{detail}: {found}")
