"""What defines a run: a description of its step, data and randomness, which a resumed run must share."""

import dataclasses
import functools
import hashlib
import inspect
import re
import types
from collections.abc import Callable, Mapping, Sequence, Set
from pathlib import PurePath
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jtl.data.content import contents

LIBRARIES = ("jtl", "jax", "jaxlib", "flax", "optax", "numpy", "builtins", "functools", "chex")
"""Functions of these are described by their names and what they were given, so that an update is not another run."""
_LENGTH = re.compile(r"(?P<of>.*)/(\w+_)?(steps|boundaries/\d+)")
_SCHEDULE = re.compile(r"(optax|jtl)\..*schedule")
_RATE = re.compile(r".*/(step_size_fn|learning_rate|\w*schedule\w*|weight|weight_decay)(/.*)?")
_OWN = re.compile(r".+ [0-9a-f]{12}", re.DOTALL)
"""The text of a function of the user, or of an array."""
SHOWN = 8


class AnotherRun(ValueError):
    """Raised where the checkpoints in a folder are not those of the run that would resume from them."""


def described(
    step: Any, data: Any, key: Any, whole: Callable[[np.ndarray], np.ndarray] = lambda own: own
) -> dict[str, str]:
    """Short texts by path, equal in every process that makes the same run, and for any number of processes.

    Args:
      step: of `make_step`; its closures are followed: objective, optimizer, masks, `clip`, `ema` and the others.
      data: its length, batch size, number of examples, classes, what `jtl.data.content` knows of its examples, and the
        content of its first batch.
      key: the root key of the state.
      whole: adds up numbers of all processes, each of which has its own rows of the batch.
    """
    found: dict[str, str] = {}
    seen: dict[int, str] = {}
    _walk("step", step, found, seen)
    found = {path: told for path, told in found.items() if not path.startswith("step/classes")}  # objectives have them
    for name in ("batch_size", "size", "classes"):
        if hasattr(data, name):
            _walk(f"data/{name}", getattr(data, name), found, seen)
    found["data/len"] = str(len(data))
    found |= contents(data, "data/content")
    found |= _first(data[0], whole)
    _walk("key", key, found, seen)
    return found


def scored(watch: str, mode: str | None, data: Any) -> dict[str, str]:
    """What scores are of, as `described`; no row of the data is read, and another batch size is no difference."""
    found = {"validation/watch": watch, "validation/mode": mode or "min"}
    found["validation/data/size"] = str(data.size) if hasattr(data, "size") else f"{len(data)} batches"
    _walk("validation/data/classes", getattr(data, "classes", None), found, {})
    return found


def refreshing(refresh: Any) -> dict[str, str]:
    """When a state is refreshed between steps, and by which function, as `described`.

    What the function was given when it was made is not looked at: it may keep what it computed.

    Args:
      refresh: with `run` and `every`, or None.

    Example:
      >>> import jtl
      >>> from jtl.train.checkpoint.identity import refreshing
      >>> refreshing(None)
      {'refresh/every': 'never'}
    """
    if refresh is None:
        return {"refresh/every": "never"}
    run, found = refresh.run, {"refresh/every": str(refresh.every)}
    while isinstance(run, functools.partial):
        run = run.func
    run = getattr(inspect.unwrap(run), "__func__", inspect.unwrap(run))  # of a method
    if isinstance(run, types.FunctionType):
        _function("refresh/run", run, found)
    else:
        found["refresh/run"] = type(run).__qualname__
    return found


def differences(before: Mapping[str, str], now: Mapping[str, str], *, updated: bool = False) -> list[str]:
    """What differs in two descriptions, one line per difference; a schedule that is longer now is not one.

    Neither is a validation that only one of them has, nor a refresh or the content of the data, if the checkpoint is
    older than their description.

    Args:
      before: of the checkpoint.
      now: of the run that would resume.
      updated: another version of a library wrote the checkpoint. What the libraries alone may have changed is then left
        out: the names of their functions, and parts of the step that only one of the two descriptions has. The data,
        the key or a number that differs stays a difference, and so does an array or a function of the user that differs
        or that only one of them has.

    Example:
      >>> from jtl.train.checkpoint.identity import differences
      >>> old, new = {"clip": "None", "weight/total_steps": "10"}, {"clip": "1.0", "weight/total_steps": "20"}
      >>> differences(old, new)
      ['clip: None -> 1.0']
    """
    lines, both, then, after = [], before.keys() & now.keys(), set(before.values()), set(now.values())
    for path in sorted(before.keys() | now.keys()):
        if path.startswith("validation/") and "validation/watch" not in both:
            continue
        if path.startswith("refresh/") and "refresh/every" not in both:
            continue
        if path.startswith("data/content") and path not in before:
            continue
        old, new = before.get(path, "absent"), now.get(path, "absent")
        length = old.isdecimal() and new.isdecimal() and _of_schedule(path, now)
        longer = length and int(new) > int(old)
        own = any(_OWN.fullmatch(text) and text not in others for text, others in ((old, after), (new, then)))
        if old != new and not longer and not (updated and not own and _of_libraries(path, old, new)):
            lines.append(f"{path}: {old} -> {new}" + (", a shorter schedule" if length else ""))
    return lines


def compared(before: Mapping[str, str], now: Mapping[str, str], *, updated: bool) -> tuple[str, str]:
    """Why a run is another one, and what is only reported because an update of a library may explain it; or "".

    Args:
      before: of the checkpoint.
      now: of the run that would resume.
      updated: as of `differences`.
    """
    what, lines = differences(before, now, updated=updated), differences(before, now)
    if what or not lines:
        return told(what), ""
    return "", (
        "other versions of jtl or of the libraries below it wrote this checkpoint. It is taken as one of this run,"
        f" although the run's description differs, as it may after an update; then -> now: {told(lines)}"
    )


def _of_libraries(path: str, old: str, new: str) -> bool:
    """Whether another version of a library may describe the same step so."""
    if not path.startswith(("step", "refresh/run")):
        return False
    named = all(text.split(".")[0] in LIBRARIES and "." in text for text in (old, new))
    return named or "absent" in (old, new) or old.startswith("as step") or new.startswith("as step")


def _of_schedule(path: str, texts: Mapping[str, str]) -> bool:
    """Whether a number is the length of a schedule: of one of optax or jtl, or of any function of a rate or weight.

    Other steps, as those of an inner loop or of a line search, define the run.
    """
    found = _LENGTH.fullmatch(path)
    if found is None:
        return False
    return bool(_SCHEDULE.match(texts.get(found["of"], "")) or _RATE.fullmatch("/" + found["of"]))


def told(lines: Sequence[str]) -> str:
    """The first differences as one text."""
    more = f"; and {len(lines) - SHOWN} more" if len(lines) > SHOWN else ""
    return "; ".join(lines[:SHOWN]) + more


def _walk(path: str, value: Any, found: dict[str, str], seen: dict[int, str]) -> None:
    if value is None or isinstance(value, bool | int | float | complex | str | bytes | np.dtype | PurePath):
        found[path] = str(value) if len(str(value)) <= 80 else _hash(str(value).encode())
        return
    if isinstance(value, np.generic):
        found[path] = str(value)
        return
    if isinstance(value, np.ndarray | jax.Array):
        found[path] = _array(value)
        return
    if id(value) in seen:
        found[path] = f"as {seen[id(value)]}"
        return
    seen[id(value)] = path
    for name, part in _parts(path, value, found).items():
        _walk(f"{path}/{name}", part, found, seen)


def _parts(path: str, value: Any, found: dict[str, str]) -> dict[str, Any]:
    """The parts of a value by name; what it is itself goes into `found`."""
    if isinstance(value, functools.partial):
        return {"of": value.func, **_numbered(value.args), **value.keywords}
    if isinstance(value, types.MethodType):
        return {"self": value.__self__, "method": value.__func__.__name__}
    if callable(value) and hasattr(value, "__wrapped__"):
        return _parts(path, inspect.unwrap(value), found)
    if isinstance(value, types.FunctionType):
        return _function(path, value, found)
    if isinstance(value, type | types.BuiltinFunctionType | types.ModuleType | np.ufunc):
        found[path] = getattr(value, "__qualname__", getattr(value, "__name__", str(type(value).__name__)))
        return {}
    found[path] = type(value).__qualname__
    if type(value).__module__.split(".")[0] in ("jax", "jaxlib") and not isinstance(value, tuple):
        return {}  # a mesh, a sharding, a device: where a run is computed does not define it, and they fill caches
    if isinstance(value, re.Pattern):
        return {"pattern": value.pattern}
    if dataclasses.is_dataclass(value):  # flax's modules know their parent and name only while they are called
        names = [field.name for field in dataclasses.fields(value) if field.name not in ("parent", "name")]
        return {name: getattr(value, name, None) for name in names}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return {name: getattr(value, name) for name in value._fields}  # pyright: ignore[reportAttributeAccessIssue]
    if isinstance(value, Mapping):
        return {str(name): part for name, part in value.items()}
    if isinstance(value, Set):
        return _numbered(sorted(map(str, value)))
    if isinstance(value, Sequence):
        return _numbered(value)
    inner = getattr(value, "__dict__", {})
    return {name: part for name, part in inner.items() if not name.startswith("__") and not _cached(value, name)}


def _cached(value: Any, name: str) -> bool:
    """Whether an attribute is a property's value, which is there once somebody asked for it."""
    return isinstance(inspect.getattr_static(type(value), name, None), functools.cached_property)


def _function(path: str, value: types.FunctionType, found: dict[str, str]) -> dict[str, Any]:
    """A function's name and, where it is no library's, its text; what it was given when it was made are its parts."""
    found[path] = f"{value.__module__}.{value.__qualname__}".replace(".<locals>", "")
    if (value.__module__ or "").split(".")[0] not in LIBRARIES:
        try:
            text = inspect.getsource(value).encode()
        except (OSError, TypeError):
            text = value.__code__.co_code
        found[path] += f" {_hash(text)}"
    parts: dict[str, Any] = {}
    for name, cell in zip(value.__code__.co_freevars, value.__closure__ or (), strict=True):
        try:
            parts[name] = cell.cell_contents
        except ValueError:  # a name that was not given a value yet
            continue
    defaults = value.__defaults__ or ()
    named = value.__code__.co_varnames[: value.__code__.co_argcount]
    given = dict(zip(named[len(named) - len(defaults) :], defaults, strict=True)) | (value.__kwdefaults__ or {})
    return {**given, **parts}


def _first(batch: Any, whole: Callable[[np.ndarray], np.ndarray]) -> dict[str, str]:
    """The first batch as sums over its rows, which do not depend on how processes share them."""
    leaves = {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf)
        for path, leaf in jax.tree.leaves_with_path(batch)
    }
    rows = {path: leaf if leaf.ndim else leaf[None] for path, leaf in leaves.items()}
    sums = whole(np.array([[len(leaf), *_sum(leaf)] for leaf in rows.values()], np.uint32).reshape(-1, 3))
    return {
        f"data/first batch/{path}": f"{leaf.dtype}[{', '.join(map(str, (n, *leaf.shape[1:])))}] {a:08x}{b:08x}"
        for (path, leaf), (n, a, b) in zip(rows.items(), sums.tolist(), strict=True)
    }


def _sum(rows: np.ndarray) -> tuple[int, int]:
    each = [int(_hash(np.ascontiguousarray(row).tobytes()), 16) for row in rows]
    return sum(n % 2**32 for n in each) % 2**32, sum(n >> 32 for n in each) % 2**32


def _numbered(values: Any) -> dict[str, Any]:
    return {str(i): part for i, part in enumerate(values)}


def _array(value: Any) -> str:
    if isinstance(value, Tracer):
        return f"traced {value.dtype}{list(value.shape)}"
    if jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        value = jax.random.key_data(value)
    if isinstance(value, jax.Array) and not value.is_fully_addressable:
        return f"{value.dtype}{list(value.shape)}"
    numbers = np.ascontiguousarray(np.asarray(value))
    return f"{numbers.dtype}{list(numbers.shape)} {_hash(numbers.tobytes())}"


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:12]
