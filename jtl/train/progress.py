"""Progress of a run: a live bar in a terminal, plain lines elsewhere."""

import time
from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn


class Silent:
    """Shows nothing; the base class of the displays."""

    def begin(self, at: int) -> None:
        """Called when the loop starts after step `at`."""

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Called after a step's metrics were read."""

    def say(self, text: str) -> None:
        """Prints one permanent line."""

    def end(self) -> None:
        """Called at the end of the loop, even if it failed."""


class Lines(Silent):
    """Prints plain lines: for the first step, the last step, and one every ten seconds in between.

    Args:
      steps: the number of steps of the whole run.
      epoch: the number of steps per epoch.
      seconds: the time between lines.
      clock: a function that returns seconds, such as `time.monotonic`.
    """

    def __init__(self, steps: int, epoch: int, seconds: float = 10.0, clock: Callable[[], float] = time.monotonic):
        self.steps, self.epoch, self.seconds, self.clock = steps, epoch, seconds, clock
        self.at, self.since, self.shown = 0, 0.0, -float("inf")

    def begin(self, at: int) -> None:
        """Starts the clock."""
        self.at, self.since = at, self.clock()

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Prints a line when one is due."""
        now = self.clock()
        if step == self.steps or now - self.shown >= self.seconds:
            self.shown = now
            rate = (step - self.at) / max(now - self.since, 1e-9)
            left = _clock((self.steps - step) / rate)
            where = _where(step, self.steps, self.epoch)
            self.say(f"{where}  {_numbers(metrics)}  {rate:.3g} steps/s  {left} left")

    def say(self, text: str) -> None:
        """Prints a line."""
        print(text, flush=True)


class Bar(Silent):
    """A live bar in a terminal."""

    def __init__(self, steps: int, epoch: int, console: Console):
        self.steps, self.epoch = steps, epoch
        numbers, rate = TextColumn("{task.fields[numbers]}"), TextColumn("{task.fields[rate]} steps/s")
        left = (TimeRemainingColumn(), TextColumn("left"))
        self.bar = Progress(TextColumn("{task.description}"), BarColumn(20), numbers, rate, *left, console=console)
        self.task: Any = None
        self.at, self.since = 0, 0.0

    def begin(self, at: int) -> None:
        """Shows the bar."""
        self.at, self.since = at, time.monotonic()
        where = _where(at, self.steps, self.epoch)
        self.task = self.bar.add_task(where, total=self.steps, completed=at, numbers="", rate="-")
        self.bar.start()

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Moves the bar."""
        rate = (step - self.at) / max(time.monotonic() - self.since, 1e-9)
        where = _where(step, self.steps, self.epoch)
        self.bar.update(self.task, completed=step, description=where, numbers=_numbers(metrics), rate=f"{rate:.3g}")

    def say(self, text: str) -> None:
        """Prints a line above the bar."""
        self.bar.console.print(text, markup=False, highlight=False)

    def end(self) -> None:
        """Leaves the bar as it is."""
        self.bar.stop()


def progress(steps: int, epoch: int) -> Silent:
    """A bar if standard output is a terminal, else lines."""
    console = Console()
    return Bar(steps, epoch, console) if console.is_terminal else Lines(steps, epoch)


def _where(step: int, steps: int, epoch: int) -> str:
    return f"epoch {max(step - 1, 0) // epoch + 1}/{-(-steps // epoch)}  step {step}/{steps}"


def _numbers(metrics: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"
