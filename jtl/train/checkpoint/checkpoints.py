"""Checkpoints of a run: saved in the background, sealed with checksums, restored onto any devices."""

import glob
import math
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.sharding import SingleDeviceSharding

from jtl.model import Variables
from jtl.params import unflatten
from jtl.pretrained.load import Pretrained
from jtl.train.checkpoint import arrays, identity, manifest
from jtl.train.checkpoint.claim import NotClaimed, claimed
from jtl.train.checkpoint.commands import beginning, same_command
from jtl.train.checkpoint.fingerprint import fingerprints, together
from jtl.train.checkpoint.network_files import described_beside
from jtl.train.checkpoint.processes import agreed, anywhere, meet
from jtl.train.checkpoint.retention import Retention, log
from jtl.train.state import State, with_averages
from jtl.weights.formats import orbax_arrays
from jtl.weights.formats.errors import WeightFileError


class Checkpoints:
    """The checkpoints of one run, each a folder `step_00000040` of one directory.

    A folder is a valid checkpoint once it has its manifest, which is written last: a process that is killed in the
    middle of a save leaves the earlier checkpoints intact. Parameters that the run does not train are written once,
    into a folder `frozen_…` of the same directory, which the steps name. In a run of several processes, all of them
    call `save`, `wait` and `restore` on one shared directory. As a context manager it waits for the last save, even
    if an error ends it.

    Args:
      directory: created if it does not exist.
      every: `fit` saves each time after so many steps, beside evaluations and the end; None: once an epoch.
      keep: how many of the newest to keep; the best one stays besides.
      recipe: text that is kept with every checkpoint: how to make this run again.
      network: what `jtl.load` gave, with the labels and the preprocessing that the run uses: the first save writes
        `config.json` and what belongs to it beside the steps, so that `jtl.load(directory)`, and the commands predict,
        eval and export, know the network, its classes and its inputs. None: they must be given again.

    Raises:
      ValueError: for numbers below 1, or a directory that is itself one checkpoint or the address of a bucket, or has
        `*`, `?` or `[` in its path.

    Example:
      >>> import tempfile
      >>> import jax, jax.numpy as jnp, jtl, optax
      >>> net = jtl.network(backbone=jtl.backbones.mlp((8,)), head=jtl.heads.linear(3))
      >>> batch = {"x": jnp.ones((8, 5)), "y": jnp.zeros(8, int)}
      >>> step = jtl.make_step(jtl.finetune(net), optax.sgd(0.1), ema=0.9)
      >>> state = step.init(net.init(jax.random.key(0), batch["x"]), jax.random.key(1))
      >>> checkpoints = jtl.Checkpoints(tempfile.mkdtemp(), every=100, keep=2)
      >>> checkpoints.save(state)
      >>> checkpoints.wait()
      >>> checkpoints.steps()
      [0]
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        every: int | None = None,
        keep: int = 3,
        recipe: str = "",
        network: Pretrained | None = None,
    ):
        self._retention = Retention(directory, keep)
        self.directory, self.every, self.recipe = self._retention.directory, every, recipe
        if every is not None and every < 1:
            raise ValueError(f"every={every}: at least one step lies between saves")
        if glob.has_magic(str(self.directory)):
            # Orbax looks for the parts of a save by it as a pattern, and without them nobody can read what it wrote.
            raise ValueError(f"{self.directory}: a checkpoint's path may not have '*', '?' or '['; give another folder")
        self._network = network
        self._saving: threading.Thread | None = None
        self._failure: BaseException | None = None
        self._here: int | None = None  # the step last saved or restored, which needs no second save

    def steps(self) -> list[int]:
        """The steps of all finished checkpoints, in order."""
        return self._retention.steps()

    def best(self) -> int | None:
        """The step of the highest score, the first of equal ones; None where none was scored."""
        return next(iter(self._retention.ranked()), None)

    def path(self, step: int) -> Path:
        """The folder of a step."""
        return self._retention.path(step)

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """A context in which no other run may write here; `fit` enters it.

        Raises:
          NotClaimed: a RuntimeError, in all processes, where another run has entered it, with its process and host.
        """
        failure = None
        with ExitStack() as stack:
            if jax.process_index() == 0:
                try:
                    stack.enter_context(claimed(self.directory))
                except (RuntimeError, OSError) as error:
                    failure = error
            if agreed(int(failure is not None)):
                raise failure or NotClaimed(f"process 0 cannot claim {self.directory}; its message says why")
            yield

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is None:
            return self.wait()
        try:
            self._join()  # without the other processes, which the error may not have reached
        except RuntimeError as failure:
            error.add_note(str(failure))

    def save(
        self,
        state: State,
        *,
        score: float | None = None,
        metrics: Mapping[str, float] | None = None,
        trains: Mapping[str, bool] | None = None,
        run: Mapping[str, str] | None = None,
    ) -> None:
        """Copies a state off the devices and writes it in the background; waits for the save before.

        Args:
          state: may be donated as soon as this returns.
          score: higher is better; the checkpoint with the highest is kept. A state that was just saved or restored is
            not written again, but gets the score; its folder is read for that, to see that it holds this state.
          metrics: numbers to keep with it.
          trains: whether the run trains each parameter, by path, as `step.trains(state.params)`. The others are
            written where the directory does not hold the same values yet, before this returns. None: write all.
          run: what defines the run (`identity.described`), for `same_run`.

        Raises:
          ValueError: for a score of NaN, which is neither higher nor lower than another, where `trains` is of other
            parameters, and where the state has not the parameters of `network`.
        """
        score = None if score is None else float(score)
        if score is not None and math.isnan(score):
            raise ValueError("score=nan cannot be compared with others; give a number, or None")
        numbers = {name: float(value) for name, value in (metrics or {}).items()}
        self.wait()
        with jax.transfer_guard("allow"):
            step = int(state.step)
            leaves = {name: jnp.asarray(leaf) for name, leaf in arrays.named(state).items()}
            if step == self._here and self._holds(step, leaves):
                if score is not None and jax.process_index() == 0:
                    self._retention.seal(step, manifest.read(self.path(step)) | {"score": score, "metrics": numbers})
                meet(f"jtl score {step}")
                return
            if self._network is not None:
                described_beside(self.directory, self._network, arrays.described(leaves))
                self._network = None  # once
            if jax.process_index() == 0:
                self._retention.clear(step)
            meet(f"jtl save {step}")
            frozen = arrays.frozen(leaves, trains)
            content = {
                "step": step,
                "score": score,
                "metrics": numbers,
                "recipe": self.recipe,
                "run": None if run is None else dict(run),
                "versions": manifest.versions(),
                "leaves": arrays.described(leaves),
                "frozen": self._save_frozen(frozen) if frozen else None,
            }
            moving = {name: leaf for name, leaf in leaves.items() if name not in frozen}
            response = arrays.write_later(self.path(step), moving)
        self._here = step
        self._saving = threading.Thread(target=self._finish, args=(response, content), name="jtl-save")
        self._saving.start()

    def wait(self) -> None:
        """Returns once the last save is on disk.

        Raises:
          NotSaved: a RuntimeError, where it failed.
        """
        if self._saving is not None:
            self._join()
            meet(f"jtl saved {self._here}")

    def restore(
        self, like: State, *, step: int | Literal["newest", "best"] = "newest", trains: Mapping[str, bool] | None = None
    ) -> State:
        """A whole state, bit for bit, where the leaves of `like` lie: on any device count or sharding.

        A damaged checkpoint is reported by name in the log "jtl.checkpoint", and the one before is used.

        Args:
          like: a state of the same shapes, of arrays or of `jax.ShapeDtypeStruct` with shardings.
          step: which one; a given step must be intact.
          trains: as for `save`; the parameters of `like` that the run does not train must then have the values that
            were saved, as another run's checkpoint is not for this one.

        Returns:
          A state in buffers of its own, so it can be donated.

        Raises:
          FileNotFoundError: where there is no checkpoint.
          ValueError: for leaves of other names, shapes or types, named with both, or other frozen values.
        """
        self.wait()
        wanted = arrays.named(like)
        shapes = {name: arrays.abstract(leaf) for name, leaf in wanted.items()}

        def read(step: int, about: dict[str, Any]) -> dict[str, Any]:
            arrays.compare(self.path(step), about["leaves"], wanted)
            if trains is not None:
                self._same_frozen(about, arrays.frozen(wanted, trains))
            return self._load(step, about, shapes)

        step, found = self._readable(step, read)
        for name, leaf in wanted.items():
            if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
                found[name] = jax.random.wrap_key_data(found[name], impl=str(jax.random.key_impl(leaf)))
        self._here = step
        return jax.tree.unflatten(jax.tree.structure(like), [found[name] for name in wanted])

    def variables(
        self, *, step: int | Literal["newest", "best"] = "newest", sharding: Any = None, averages: bool = True
    ) -> Variables:
        """Parameters and statistics alone, without a state to compare with.

        Args:
          step: which one.
          sharding: of every leaf; None puts them on the first device.
          averages: the moving averages of the parameters where the run keeps any (`make_step(ema=...)`), because its
            validation judged these; False: the parameters' last values.

        Raises:
          FileNotFoundError: where there is no checkpoint.
          ValueError: for arrays of 64 bits, as float64, while `jax_enable_x64` is off.
        """
        self.wait()
        place = SingleDeviceSharding(jax.local_devices()[0]) if sharding is None else sharding
        tops = ("params", "stats", "ema") if averages else ("params", "stats")

        def read(step: int, about: dict[str, Any]) -> dict[str, Any]:
            shapes = {
                name: jax.ShapeDtypeStruct(tuple(shape), jnp.dtype(dtype), sharding=place)
                for name, (shape, dtype) in about["leaves"].items()
                if name.split("/")[0] in tops
            }
            return self._load(step, about, shapes, part=True)

        tree = unflatten(self._readable(step, read)[1])
        return Variables(with_averages(tree.get("params", {}), tree.get("ema", {})), tree.get("stats", {}))

    def about(self, *, step: int | Literal["newest", "best"] = "newest") -> dict[str, Any]:
        """The manifest of a checkpoint: `step`, `score`, `metrics`, `recipe`, `versions`, `leaves`, `frozen`."""
        self.wait()
        return self._pick(step)[1]

    def same_run(self, run: Mapping[str, str]) -> None:
        """Checks that a run is the one whose newest checkpoint is here.

        A checkpoint without a description, such as one saved by hand, passes. If other versions of jtl, jax, flax or
        optax wrote it, what these alone may have changed in the description is a warning in the log "jtl.checkpoint".

        Args:
          run: what defines the run (`identity.described`); a schedule that is longer now is not a difference.

        Raises:
          AnotherRun: a ValueError, with what differs.
        """
        about, what = self.about(), ""
        old, new = about["recipe"], self.recipe
        if old and new and not same_command(old, new):
            what = f"{beginning(old)} -> {beginning(new)}"
        elif jax.process_index() == 0 and about.get("run") is not None:  # others have other rows of the first batch
            what, why = identity.compared(about["run"], run, updated=about.get("versions") != manifest.versions())
            if why:
                log.warning("%s: %s", self.path(about["step"]), why)
        if agreed(int(bool(what))):
            raise identity.AnotherRun(
                f"the run in {self.directory} is another one, so it cannot be resumed here; then -> now:"
                f" {what or 'as process 0 says'}. Give this run a folder of its own, or the old settings; more steps"
                " are allowed"
            )

    def _save_frozen(self, leaves: dict[str, jax.Array]) -> str:
        """Writes parameters that do not change, where the directory does not hold them; returns their folder's name."""
        about, prints = arrays.described(leaves), fingerprints(leaves)
        name = f"frozen_{together(prints, about)}"
        if not agreed(jax.process_index() == 0 and self._retention.holds(name)):
            try:
                arrays.write_later(self.directory / name, leaves).result()
            except Exception as failure:  # of Orbax, which has no error of its own for a file that cannot be written
                raise manifest.NotSaved(f"saving {name} into {self.directory} failed: {failure!r}") from failure
            if jax.process_index() == 0:
                self._retention.seal_frozen(name, {"leaves": about, "fingerprints": prints})
            meet(f"jtl saved {name}")
        return name

    def _holds(self, step: int, leaves: dict[str, jax.Array]) -> bool:
        """Whether a step's folder is there with these values; otherwise, a removed or another one, it is written."""
        if not agreed(jax.process_index() == 0 and step in self._retention.steps()):
            return False
        prints, same = fingerprints(leaves), False
        try:
            about = manifest.read(self.path(step))
            if about["leaves"] == arrays.described(leaves):
                shapes = {name: jax.eval_shape(arrays.raw, leaf) for name, leaf in leaves.items()}
                found = self._read(step, about, shapes, host=True)  # devices may have no room for a second state
                same = all(fingerprints({n: jnp.asarray(found[n])}) == {n: prints[n]} for n in leaves)
        except (manifest.Damaged, WeightFileError) as damage:
            log.warning("checkpoint %s is damaged and written again: %s", self.path(step), damage)
        return not anywhere(not same)

    def _same_frozen(self, about: dict[str, Any], leaves: dict[str, Any]) -> None:
        stored = self._retention.frozen(about).get("fingerprints", {})
        with jax.transfer_guard("allow"):
            prints = fingerprints({name: leaf for name, leaf in leaves.items() if name in stored})
        other = [name.removeprefix("params/") for name, value in prints.items() if value != stored[name]]
        if other:
            raise ValueError(
                f"{other[0]!r} and {len(other) - 1} more frozen parameters are not those of the run in"
                f" {self.directory}: begin with the weights that it began with (they are in {about['frozen']}, as"
                " `Checkpoints.variables()` gives them), or give another directory"
            )

    def _join(self) -> None:
        """Waits for this process's part of the last save."""
        if self._saving is None:
            return
        self._saving.join()
        self._saving = None
        if self._failure is not None:
            step, self._here = self._here, None
            failure, self._failure = self._failure, None
            raise manifest.NotSaved(f"saving step {step} into {self.directory} failed: {failure!r}") from failure

    def _finish(self, response: Any, content: dict[str, Any]) -> None:
        try:
            response.result()
            if jax.process_index() == 0:
                self._retention.seal(content["step"], content)
        except BaseException as failure:
            self._failure = failure  # raised by wait(), in the thread that asked for the save

    def _pick(self, wanted: int | str) -> tuple[int, dict[str, Any]]:
        """The step that all processes use, as process 0 finds it, and its manifest."""
        step, failure = -1, None
        if jax.process_index() == 0:
            try:
                step = self._retention.intact(wanted)
            except (FileNotFoundError, manifest.Damaged) as error:
                failure = error
        step = agreed(step)
        if step < 0:
            raise failure or FileNotFoundError(f"process 0 found no intact checkpoint in {self.directory}")
        return step, manifest.read(self.path(step))

    def _readable(self, wanted: int | str, read: Callable[[int, dict[str, Any]], Any]) -> tuple[int, Any]:
        """The step that is used, and what `read` makes of it; one that Orbax does not read is as a damaged one."""
        while True:
            step, about = self._pick(wanted)
            failure = found = None
            try:
                found = read(step, about)
            except WeightFileError as error:
                failure = manifest.Damaged(str(error))
            if not anywhere(failure is not None):
                return step, found
            failure = failure or manifest.Damaged(f"{self.path(step)}: another process cannot read it")
            if isinstance(wanted, int):
                raise failure
            self._retention.unreadable(step, failure)

    def _load(self, step: int, about: dict[str, Any], shapes: dict[str, Any], *, part: bool = False) -> dict[str, Any]:
        with jax.transfer_guard("allow"):
            found = self._read(step, about, shapes, part=part)
            # Restored buffers may not be donated; the copies that a program makes may.
            places = {name: shape.sharding for name, shape in shapes.items()}
            return jax.jit(lambda t: jax.tree.map(jnp.copy, t), out_shardings=places)({n: found[n] for n in shapes})

    def _read(self, step: int, about: dict[str, Any], shapes: dict[str, Any], **options: bool) -> dict[str, Any]:
        apart = self._retention.frozen(about)["leaves"]
        here, there = ({n: s for n, s in shapes.items() if (n in apart) == frozen} for frozen in (False, True))
        found = orbax_arrays.load(self.path(step), here, **options)
        return found | (orbax_arrays.load(self.directory / about["frozen"], there, **options) if there else {})
