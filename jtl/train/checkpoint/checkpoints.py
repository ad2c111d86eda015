"""Checkpoints of a run: saved in the background, sealed with checksums, restored onto any devices."""

import glob
import math
import threading
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import SingleDeviceSharding
from orbax.checkpoint import v1 as ocp

from jtl.model import Variables
from jtl.params import flatten, unflatten
from jtl.train.checkpoint import manifest
from jtl.train.checkpoint.retention import Shelf
from jtl.train.state import State


class Checkpoints:
    """The checkpoints of one run, each a folder `step_00000040` of one directory.

    A folder counts once its manifest is there, which is written last: a process killed in the middle of a
    save leaves the checkpoints before it as they were. In a run of several processes all of them call `save`,
    `wait` and `restore`, on one shared directory.

    Args:
      directory: made where it does not exist.
      every: `fit` saves each time after so many steps, beside evaluations and the end; None: once an epoch.
      keep: how many of the newest to keep; the best one stays besides.
      recipe: text that is kept with every checkpoint: how to make this run again.

    Raises:
      ValueError: for numbers below 1, or a directory that is itself one checkpoint, or has `*`, `?` or `[` in its path.
    """

    def __init__(self, directory: str | Path, *, every: int | None = None, keep: int = 3, recipe: str = ""):
        self._shelf = Shelf(directory, keep)
        self.directory, self.every, self.recipe = self._shelf.directory, every, recipe
        if every is not None and every < 1:
            raise ValueError(f"every={every}: at least one step lies between saves")
        if glob.has_magic(str(self.directory)):
            # Orbax looks for the parts of a save by it as a pattern, and without them nobody can read what it wrote.
            raise ValueError(f"{self.directory}: a checkpoint's path may not have '*', '?' or '['; give another folder")
        self._saving: threading.Thread | None = None
        self._failure: BaseException | None = None
        self._here: int | None = None  # the step last saved or restored, which needs no second save

    def steps(self) -> list[int]:
        """The steps of all finished checkpoints, in order."""
        return self._shelf.steps()

    def best(self) -> int | None:
        """The step of the highest score, the first of equal ones; None where none was scored."""
        return next(iter(self._shelf.ranked()), None)

    def path(self, step: int) -> Path:
        """The folder of a step."""
        return self._shelf.path(step)

    def save(self, state: State, *, score: float | None = None, metrics: Mapping[str, float] | None = None) -> None:
        """Copies a state off the devices and writes it in the background; waits for the save before.

        Args:
          state: may be donated as soon as this returns.
          score: higher is better; the checkpoint with the highest is kept. A state that was just saved or restored is
            not written again, but gets the score.
          metrics: numbers to keep with it.

        Raises:
          ValueError: for a score of NaN, which is neither higher nor lower than another.
        """
        score = None if score is None else float(score)
        if score is not None and math.isnan(score):
            raise ValueError("score=nan cannot be compared with others; give a number, or None")
        numbers = {name: float(value) for name, value in (metrics or {}).items()}
        self.wait()
        with jax.transfer_guard("allow"):
            step = int(state.step)
            if step == self._here:
                if score is not None and jax.process_index() == 0:
                    self._shelf.seal(step, manifest.read(self.path(step)) | {"score": score, "metrics": numbers})
                _meet(f"jtl score {step}")
                return
            if jax.process_index() == 0:
                self._shelf.clear(step)
            _meet(f"jtl save {step}")
            leaves = {name: jnp.asarray(leaf) for name, leaf in _named(state).items()}
            content = {
                "step": step,
                "score": score,
                "metrics": numbers,
                "recipe": self.recipe,
                "versions": {name: version(name) for name in ("jax", "jaxlib", "orbax-checkpoint")} | {"jtl": _jtl()},
                "leaves": {name: [list(leaf.shape), str(leaf.dtype)] for name, leaf in leaves.items()},
            }
            arrays = _grouped({name: _raw(leaf) for name, leaf in leaves.items()})
            response = ocp.save_checkpointables_async(str(self.path(step) / "arrays"), arrays)
        self._here = step
        self._saving = threading.Thread(target=self._finish, args=(response, content), name="jtl-save")
        self._saving.start()

    def wait(self) -> None:
        """Returns once the last save is on disk.

        Raises:
          RuntimeError: where it failed.
        """
        if self._saving is None:
            return
        self._saving.join()
        self._saving = None
        if self._failure is not None:
            step, self._here = self._here, None
            failure, self._failure = self._failure, None
            raise RuntimeError(f"saving step {step} into {self.directory} failed: {failure!r}") from failure
        _meet(f"jtl saved {self._here}")

    def restore(self, like: State, *, step: int | Literal["newest", "best"] = "newest") -> State:
        """A whole state, bit for bit, where the leaves of `like` lie: on any device count or sharding.

        A damaged checkpoint is reported by name in the log "jtl.checkpoint", and the one before is used.

        Args:
          like: a state of the same shapes, of arrays or of `jax.ShapeDtypeStruct` with shardings.
          step: which one; a given step must be intact.

        Returns:
          A state in buffers of its own, so it can be donated.

        Raises:
          FileNotFoundError: where there is no checkpoint.
          ValueError: for leaves of other names, shapes or types, named with both.
        """
        self.wait()
        step, about = self._pick(step)
        wanted = _named(like)
        _compare(self.path(step), about["leaves"], wanted)
        found = self._load(step, {name: _abstract(leaf, leaf.sharding) for name, leaf in wanted.items()})
        for name, leaf in wanted.items():
            if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
                found[name] = jax.random.wrap_key_data(found[name], impl=str(jax.random.key_impl(leaf)))
        self._here = step
        return jax.tree.unflatten(jax.tree.structure(like), [found[name] for name in wanted])

    def variables(self, *, step: int | Literal["newest", "best"] = "newest", sharding: Any = None) -> Variables:
        """Parameters and statistics alone: no state to compare with is needed.

        Args:
          step: which one.
          sharding: of every leaf; None puts them on the first device.
        """
        self.wait()
        step, about = self._pick(step)
        place = SingleDeviceSharding(jax.local_devices()[0]) if sharding is None else sharding
        shapes = {
            name: jax.ShapeDtypeStruct(tuple(shape), jnp.dtype(dtype), sharding=place)
            for name, (shape, dtype) in about["leaves"].items()
            if name.split("/")[0] in ("params", "stats")
        }
        tree = unflatten(self._load(step, shapes))
        return Variables(tree.get("params", {}), tree.get("stats", {}))

    def about(self, *, step: int | Literal["newest", "best"] = "newest") -> dict[str, Any]:
        """What is written about a checkpoint: `step`, `score`, `metrics`, `recipe`, `versions`, `leaves`."""
        self.wait()
        return self._pick(step)[1]

    def _finish(self, response: Any, content: dict[str, Any]) -> None:
        try:
            response.result()
            if jax.process_index() == 0:
                self._shelf.seal(content["step"], content)
        except BaseException as failure:
            self._failure = failure  # raised by wait(), in the thread that asked for the save

    def _pick(self, wanted: int | str) -> tuple[int, dict[str, Any]]:
        """The step that all processes use, as process 0 finds it, and its manifest."""
        step, failure = -1, None
        if jax.process_index() == 0:
            try:
                step = self._shelf.intact(wanted)
            except (FileNotFoundError, manifest.Damaged) as error:
                failure = error
        if jax.process_count() > 1:
            with jax.transfer_guard("allow"):
                step = int(multihost_utils.broadcast_one_to_all(np.int32(step)))
        if step < 0:
            raise failure or FileNotFoundError(f"process 0 found no intact checkpoint in {self.directory}")
        return step, manifest.read(self.path(step))

    def _load(self, step: int, shapes: dict[str, Any]) -> dict[str, Any]:
        with jax.transfer_guard("allow"):
            loaded = ocp.load_checkpointables(str(self.path(step) / "arrays"), _grouped(shapes))
            tree = {name: value for group in loaded.values() for name, value in flatten(group).items()}
            # Restored buffers may not be donated; the copies that a program makes may.
            places = {name: shape.sharding for name, shape in shapes.items()}
            return jax.jit(lambda t: jax.tree.map(jnp.copy, t), out_shardings=places)({n: tree[n] for n in shapes})


def _named(state: State) -> dict[str, Any]:
    """Every leaf by its path: `params/head/kernel`, `opt/0/0/mu/head/kernel`, `key`."""
    leaves = jax.tree_util.tree_flatten_with_path(state)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def _grouped(leaves: dict[str, Any]) -> dict[str, Any]:
    """Parameters, statistics and the rest apart, so that each can be read alone."""
    groups: dict[str, dict[str, Any]] = {}
    for name, leaf in leaves.items():
        top = name.split("/")[0]
        groups.setdefault(top if top in ("params", "stats") else "rest", {})[name] = leaf
    return {group: unflatten(part) for group, part in groups.items()}


def _raw(leaf: Any) -> Any:
    return jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf


def _abstract(leaf: Any, sharding: Any) -> jax.ShapeDtypeStruct:
    raw = jax.eval_shape(_raw, leaf)
    return jax.ShapeDtypeStruct(raw.shape, raw.dtype, sharding=sharding)


def _compare(folder: Path, stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    hint = "; parameters alone are restored by variables()"
    for name, leaf in wanted.items():
        if name not in stored:
            raise ValueError(f"{folder} does not hold {name!r}, which this state has{hint}")
        shape, dtype = stored[name]
        if tuple(shape) != leaf.shape or dtype != str(leaf.dtype):
            raise ValueError(f"{name!r} is {dtype}{tuple(shape)} in {folder} and {leaf.dtype}{leaf.shape} here{hint}")
    extra = sorted(stored.keys() - wanted.keys())
    if extra:
        raise ValueError(f"{folder} holds {extra[0]!r} and {len(extra) - 1} more leaves that this state has not{hint}")


def _meet(name: str) -> None:
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def _jtl() -> str:
    try:
        return version("jtl")
    except PackageNotFoundError:  # run from a checkout that is not installed
        return "not installed"
