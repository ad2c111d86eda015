"""The training loop: a step, a state and data, until the last step."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from jtl.data.pipeline import same_classes, same_labels
from jtl.model import Variables
from jtl.params import counted
from jtl.train.blame import bright_images, labels_of
from jtl.train.checkpoint.checkpoints import Checkpoints
from jtl.train.checkpoint.identity import AnotherRun, described, refreshing, scored
from jtl.train.evaluate import Validation, evaluator
from jtl.train.interrupt import StopRequest
from jtl.train.options import at_least_one, counts_steps
from jtl.train.parallel import sharding
from jtl.train.parallel.consistency import agree, summed
from jtl.train.prefetch import feed, rows
from jtl.train.programs import Programs
from jtl.train.progress import Silent
from jtl.train.progress import progress as shown_progress
from jtl.train.records import Record
from jtl.train.refresh import Refresh, refreshed
from jtl.train.state import State, averaged, copied, infinite
from jtl.train.step import Step


class NonFiniteLoss(FloatingPointError):
    """Raised if a loss or a parameter became infinite or NaN."""


class Moment(NamedTuple):
    """The argument of a hook.

    Args:
      step: the step whose metrics were read.
      metrics: the metrics of that step, as floats (arrays for metrics that are arrays).
      state: the current state, which is one step later unless an evaluation or a save is due. The next step
        overwrites its buffers: copy what you keep.
    """

    step: int
    metrics: dict[str, Any]
    state: State


class Fitted(NamedTuple):
    """The result of `fit`.

    Args:
      state: the state after the last step.
      history: rows `{"step", "split": "train" | "validation", "loss", ...}` of the steps that this call took.
      best: the step of the best validation, or None.
      stopped: "steps" or "patience".
      compile_seconds: the time that compiling the step took; 0 if no step was left to take.
    """

    state: State
    history: list[dict[str, Any]]
    best: int | None
    stopped: str
    compile_seconds: float


@counts_steps
def fit(
    step: Step,
    state: State,
    data: Any,
    *,
    steps: int,
    mesh: Mesh | None = None,
    rules: Sequence[tuple[str, sharding.Rule]] = ((".*", sharding.replicate),),
    validation: Validation | None = None,
    checkpoints: Checkpoints | None = None,
    refresh: Refresh | None = None,
    records: Sequence[Record] = (),
    hooks: Sequence[Callable[[Moment], None]] = (),
    progress: bool = True,
) -> Fitted:
    """Trains until `state.step == steps`, and resumes from the newest checkpoint if there is one.

    Batch number `step` is `data[step]`, and randomness is a function of the step, so a run that was killed
    and started again with the same arguments ends with the same bits. The metrics of a step are read after
    the next one was handed to the devices, so the devices never wait for the host.

    If there are checkpoints, SIGTERM, SIGHUP and Ctrl-C finish the step, save, and raise `SystemExit(0)`. A second
    Ctrl-C interrupts at once.

    Args:
      step: from `make_step`.
      state: from `step.init`; it is copied, so it stays usable.
      data: `data[step]` is this process's rows of a batch; `len(data)` is the number of steps in an epoch.
      steps: the total number of steps, including those of earlier runs.
      mesh: from `mesh(...)`; None for all devices. A batch must divide over it.
      rules: how parameters are sharded over the mesh.
      validation: what to evaluate, and how often. It sees the moving averages if the step keeps any.
      checkpoints: where to save: at its own intervals, after each validation, and at the end. Parameters that no phase
        trains are written once. A save in flight is finished even if an error ends the run.
      refresh: a function that changes the state between steps.
      records: where to write every step's numbers: `JsonLines(path)`, `TensorBoard(directory)`.
      hooks: called with a `Moment` after the metrics of each step are read, in every process.
      progress: whether to show progress on standard output; it begins with the numbers of trained and of all
        parameters.

    Raises:
      NonFiniteLoss: naming the step, the first bad parameter and the last good checkpoint; also if only the last update
        made the state non-finite, which no loss has seen.
      ValueError: for a batch that does not divide over the devices, or whose shapes differ from the first's; for no
        data; for a label that means another class in the validation data or in the network; for fewer steps than were
        already taken; if the checkpoints belong to another run: with another objective, optimizer, data, key, or other
        frozen parameters.
      TypeError: for steps that are not a whole number, or data that are not a data set.
      NotClaimed: a RuntimeError, if another run holds the checkpoints' folder.
      NotSaved: a RuntimeError, if a checkpoint could not be written, as on a full disk.
      SystemExit: with 0, after a signal.

    Example:
      >>> import jax, jax.numpy as jnp, jtl, optax
      >>> net = jtl.network(backbone=jtl.backbones.mlp((8,)), head=jtl.heads.linear(3))
      >>> data = jtl.data.arrays(jnp.ones((16, 5)), jnp.zeros(16, int), batch_size=8)
      >>> step = jtl.make_step(jtl.finetune(net), optax.sgd(0.1))
      >>> state = step.init(net.init(jax.random.key(0), data[0]["x"]), jax.random.key(1))
      >>> one = jtl.mesh(devices=jax.devices()[:1])
      >>> result = jtl.fit(step, state, data, steps=4, mesh=one, progress=False)
      >>> int(result.state.step), len(result.history)
      (4, 4)
    """
    at_least_one(steps, "steps", "a run takes at least one step")
    if not hasattr(data, "__getitem__") or not hasattr(data, "__len__"):
        raise TypeError(
            f"the data are a {type(data).__name__}: give a data set, of which fit takes data[step] and len(data),"
            " because a resumed run continues at its step"
        )
    if not len(data):
        raise ValueError("the data to train on are empty: len(data) is 0 batches an epoch")
    if refresh is not None:
        at_least_one(refresh.every, "refresh.every", "at least one step lies between two")
    for names in step.classes:
        same_classes(names, getattr(data, "classes", None), ("the network", "the training data"))
    if validation is not None:
        same_labels(data, validation.data, ("the training data", "the validation data"))
    mesh = sharding.mesh() if mesh is None else sharding.automatic(mesh)
    agree(mesh, "processes have data of different lengths", {"len(data)": len(data)})
    program, state = sharding.jit_phases(step, state, mesh, rules)
    trains = step.trains(state.params)
    leading = jax.process_index() == 0
    display = shown_progress(steps, len(data)) if progress and leading else Silent()
    with ExitStack() as stack:
        if checkpoints is not None:
            stack.enter_context(checkpoints.claimed())  # before anything of another run is read
        total = functools.partial(summed, mesh)
        defines = {} if checkpoints is None else described(step, data, jax.device_get(state.key), total)
        if checkpoints is not None:
            defines |= refreshing(refresh)
        if checkpoints is not None and validation is not None:
            defines |= scored(validation.watch, validation.mode, validation.data)
        if checkpoints is not None and checkpoints.steps():
            # A refresh may change what no step trains, so its run does not go on with the values that it began with.
            checkpoints.same_run(defines)
            state = checkpoints.restore(state, trains=trains if refresh is None else None)
            display.say(f"resuming from step {int(jax.device_get(state.step))} of {checkpoints.directory}")
        else:
            places = jax.tree.map(lambda leaf: leaf.sharding, state)
            state = jax.jit(copied, out_shardings=places)(state)
        at = int(jax.device_get(state.step))
        recorded = records if leading else ()
        run = _Run(mesh, data, steps, validation, checkpoints, trains, refresh, recorded, hooks, display)
        run.defines = defines
        run.not_finite = frozenset(infinite(state))  # an optimizer may begin with an infinite best loss
        if at > steps:
            where = "the state" if checkpoints is None else f"the run in {checkpoints.directory}"
            raise AnotherRun(f"steps={steps}: {where} has taken {at}; give at least as many, or begin another run")
        overdue = run.resume(at)
        stopped = "patience" if run.over(at) else "steps"
        if not overdue and (at == steps or stopped == "patience"):
            display.say(f"nothing is left to do: all {steps} steps were taken, or patience ran out earlier")
            return Fitted(state, [], run.best, stopped, 0.0)
        stop = stack.enter_context(StopRequest(mesh)) if checkpoints is not None else None
        if checkpoints is not None:
            stack.enter_context(checkpoints)  # whatever ends the run, it waits for its saves
        stack.callback(display.end)
        display.say(counted(state.params, trains))
        for record in run.records:
            record.start(at)
            stack.callback(record.close)
        if overdue:
            stopped = run.look(state, at, evaluate=True)
            if at == steps or stopped == "patience":
                return Fitted(state, run.history, run.best, stopped, 0.0)
        batches = stack.enter_context(closing(feed(data, range(at, steps), mesh)))
        return run.go(program, state, batches, at, stop)


@dataclass
class _Run:
    """The parts of one call of `fit`, and its history."""

    mesh: Mesh
    data: Any
    steps: int
    validation: Validation | None
    checkpoints: Checkpoints | None
    trains: dict[str, bool]
    refresh: Refresh | None
    records: Sequence[Record]
    hooks: Sequence[Callable[[Moment], None]]
    display: Silent
    history: list[dict[str, Any]] = field(default_factory=list)
    best: int | None = None
    score: float = -math.inf
    not_finite: frozenset[str] = frozenset()
    defines: Mapping[str, str] = field(default_factory=dict)

    def resume(self, at: int) -> bool:
        """Restores the best score from the checkpoints, so that early stopping resumes.

        Returns:
          Whether the validation of this step is still due, because a signal came and only the state was saved.
        """
        if self.validation is not None:
            self.evaluate = evaluator(self.validation.objective)
            self.between = self.validation.every or len(self.data)
            if self.checkpoints is not None and self.checkpoints.best() is not None:
                best = self.checkpoints.about(step="best")
                self.best, self.score = best["step"], best["score"]
        if self.checkpoints is None or at not in self.checkpoints.steps() or not self.validates(at):
            return False
        return self.checkpoints.about(step=at)["score"] is None

    def go(self, program: Callable, state: State, batches: Any, at: int, stop: StopRequest | None) -> Fitted:
        batch = next(batches)
        agree(self.mesh, "processes give batches of different sizes", rows(batch))
        compiled = Programs(program, self.display, self.mesh)
        take = compiled.of(at, state, batch)
        self.display.begin(at)
        pending, stopped = None, "steps"
        with jax.transfer_guard("disallow"):
            for now in range(at + 1, self.steps + 1):
                if self.refresh is not None and (now - 1) % self.refresh.every == 0:
                    if pending is not None:
                        self.read(*pending, state, now - 1)
                        pending = None
                    state = refreshed(self.refresh, state)
                take = compiled.of(now - 1, state, batch)
                state, metrics = take(state, batch)
                if pending is not None:
                    self.read(*pending, state, now)
                pending = (now, metrics)
                signal = stop.asked() if stop is not None else None
                if signal or self.due(now):
                    self.read(*pending, state, now)
                    pending = None
                    stopped = self.look(state, now, evaluate=not signal)
                if signal:
                    self.leave(signal, now)
                if stopped == "patience" or now == self.steps:
                    break
                batch = self.following(batches, pending, state, now)
        return Fitted(state, self.history, self.best, stopped, compiled.seconds)

    def following(self, batches: Any, pending: tuple[int, Any] | None, state: State, now: int) -> Any:
        """The next batch; if it cannot be read, the metrics of the step before it are read first."""
        try:
            return next(batches)
        except Exception:  # of any kind: it is raised again, unless the step before it has a NaN
            if pending is not None:
                self.read(*pending, state, now)
            raise

    def due(self, now: int) -> bool:
        """Whether this step ends with an evaluation or a save, for which its metrics must be known."""
        return now == self.steps or self.validates(now) or self.saves(now)

    def validates(self, now: int) -> bool:
        return self.validation is not None and (now == self.steps or now % self.between == 0)

    def over(self, now: int) -> bool:
        """Whether the validation of this step exhausted the patience."""
        patience = None if self.validation is None else self.validation.patience
        if patience is None or self.best is None or not self.validates(now):
            return False
        return now - self.best >= patience * self.between

    def saves(self, now: int) -> bool:
        saver = self.checkpoints
        return saver is not None and (now == self.steps or now % (saver.every or len(self.data)) == 0)

    def read(self, step: int, metrics: Any, state: State, now: int) -> None:
        """Reads the metrics of a step from the devices and passes them to records, display and hooks."""
        found = jax.device_get(metrics).items()
        values = {name: float(value) if value.ndim == 0 else value for name, value in found}
        self.tell(step, "train", values)
        self.display.step(step, numbers_of(values))
        if not math.isfinite(values["loss"]):
            with jax.transfer_guard("allow"):
                batch = self.data[step - 1]
                why, labels = bright_images(batch), labels_of(batch, state.params)
            loss = f"the loss of step {step} is {values['loss']}"
            self.fail(f"{loss}; {why}" if why else loss, state, now, labels)
        with jax.transfer_guard("allow"):
            for hook in self.hooks:
                hook(Moment(step, values, state))

    def look(self, state: State, now: int, *, evaluate: bool) -> str:
        """Evaluates and saves if due; returns why the run stops, or "steps"."""
        score, found, over = None, {}, False
        if evaluate and self.validates(now):
            assert self.validation is not None
            with jax.transfer_guard("allow"):
                averages = Variables(averaged(state), state.stats)
                key = state.key
            found = self.evaluate(averages, self.validation.data, mesh=self.mesh, key=key)
            found |= _more(self.validation, averages, found)
            self.tell(now, "validation", found)
            score = self.validation.score(found)
            if math.isnan(score):
                self.fail(f"{self.validation.watch!r} of the validation of step {now} is nan", state, now)
            if self.best is None or score > self.score:
                self.best, self.score = now, score
            over = self.over(now)
            numbers = "  ".join(f"{name} {value:.4g}" for name, value in numbers_of(found).items())
            self.display.say(f"step {now}  validation  {numbers}" + ("  best" if self.best == now else ""))
        saves = self.checkpoints is not None and (score is not None or self.saves(now) or not evaluate)
        if (saves or over or now == self.steps) and set(infinite(state)) - self.not_finite:
            self.fail(f"after step {now}, whose loss was finite, the state is not", state, now)
        if saves and self.checkpoints is not None:
            self.checkpoints.save(state, score=score, metrics=numbers_of(found), trains=self.trains, run=self.defines)
        if over and self.validation is not None:
            self.display.say(f"stopped at step {now}: no better {self.validation.watch} since step {self.best}")
        return "patience" if over else "steps"

    def tell(self, step: int, split: str, values: dict[str, Any]) -> None:
        self.history.append({"step": step, "split": split, **values})
        for record in self.records:
            record.write(step, split, numbers_of(values))

    def leave(self, signal: str, now: int) -> None:
        assert self.checkpoints is not None
        self.checkpoints.wait()
        self.display.say(
            f"{signal}: saved step {now} into {self.checkpoints.path(now)}; start again to resume from there"
        )
        raise SystemExit(0)

    def fail(self, what: str, state: State, now: int, labels: str = "") -> None:
        bad = [path for path in infinite(state) if path not in self.not_finite]
        where = (
            f"the whole state is still finite after step {now}, so check the batch: its inputs, and its labels, because"
            f" labels outside [0, classes) give NaN {labels}".rstrip()
            if not bad
            else f"the first bad array after step {now} is {bad[0]!r} of {len(bad)}: a lower learning rate may help"
        )
        kept = "no checkpoint was saved"
        if self.checkpoints is not None:
            self.checkpoints.wait()
            good = self.checkpoints.steps()
            kept = (
                f"the last good checkpoint is {self.checkpoints.path(good[-1])}"
                if good
                else f"none was saved to {self.checkpoints.directory} yet"
            )
        raise NonFiniteLoss(f"{what}; {where}; {kept}")


def _more(validation: Validation, variables: Variables, found: dict[str, Any]) -> dict[str, float]:
    """The numbers that the functions of `Validation.also` return."""
    more: dict[str, float] = {}
    for function in validation.also:
        values = function(variables)
        clash = sorted(values.keys() & (found.keys() | more.keys()))
        if clash:
            raise ValueError(f"also gives the names {clash}, which are taken: give them others")
        more |= {name: float(value) for name, value in values.items()}
    return more


def numbers_of(values: dict[str, Any]) -> dict[str, float]:
    """The values that are one number: arrays, such as a confusion matrix, are kept only in the history."""
    return {name: value for name, value in values.items() if isinstance(value, float)}
