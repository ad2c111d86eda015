"""A cache on disk for the outputs of a frozen network, keyed by everything that the result depends on."""

import hashlib
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jtl.methods.near import near
from jtl.model import Variables
from jtl.params import flatten
from jtl.paths import local
from jtl.replace import replace_file

_SEAL = hashlib.sha256().digest_size


class Cache:
    """`run(variables, x)` as a function of x, with results kept in a folder, one file per batch.

    The name of a file is a SHA-256 of the program as lowered by JAX (the network, preprocessing inside it, and the
    choice of features), the kind of device, the names, dtypes and bits of all variables, and those of x. If any of
    these changes, so does the name, so an old result is never mistaken for a new one. Another version of JAX may lower
    the program differently and then computes again. A file is renamed into place when it is complete, so a killed run
    resumes after its last batch. A damaged file causes a warning and is computed again. Nothing is deleted.

    Args:
      folder: the folder of the cache, created if it does not exist; several networks and data sets may share it.
      run: `(variables, x) -> arrays`, a pure, compilable function of its arguments.
      variables: variables of the network.

    Attributes:
      hits: number of batches that were read from the folder.
      misses: number of batches that were computed.

    Raises:
      ValueError: for a path that is a file.

    Example:
      >>> import tempfile, jax.numpy as jnp, jtl
      >>> from jtl.methods.finetune import Cache
      >>> square = Cache(tempfile.mkdtemp(), lambda variables, x: x**2, jtl.Variables({}, {}))
      >>> square(jnp.array([3.0])), square(jnp.array([3.0])), square.hits
      (array([9.], dtype=float32), array([9.], dtype=float32), 1)
    """

    def __init__(self, folder: str | Path, run: Callable[[Any, Any], Any], variables: Variables):
        self.folder = local(folder, "cache")
        if self.folder.exists() and not self.folder.is_dir():
            raise ValueError(f"cache={str(folder)!r} is a file: give a folder")
        self.folder.mkdir(parents=True, exist_ok=True)
        self.hits = self.misses = 0
        self._run, self._variables = jax.jit(run), variables
        self._weights = _digest(
            b"weights", *_content({**_named("p", variables.params), **_named("s", variables.stats)})
        )
        self._programs: dict[Any, tuple[bytes, Any]] = {}

    def __call__(self, x: Any) -> Any:
        """The result for one batch, as NumPy arrays."""
        x = jax.tree.map(np.asarray, x)
        leaves, tree = jax.tree.flatten(x)
        kind = (str(tree), *((leaf.shape, str(leaf.dtype)) for leaf in leaves))
        if kind not in self._programs:
            text = self._run.lower(self._variables, x).as_text()
            self._programs[kind] = _digest(b"program", text.encode()), jax.eval_shape(self._run, self._variables, x)
        program, shapes = self._programs[kind]
        key = _digest(
            b"jtl 1", jax.default_backend().encode(), program, self._weights, *_content(dict(enumerate(leaves)))
        )
        path = self.folder / key[:1].hex() / f"{key.hex()}.features"
        found = self._read(path, key, shapes)
        if found is not None:
            self.hits += 1
            return found
        self.misses += 1
        self._variables = jax.device_put(self._variables)  # once, because each call would copy NumPy arrays
        made = jax.tree.map(np.asarray, self._run(self._variables, x))
        self._write(path, key, made)
        return made

    def _read(self, path: Path, key: bytes, shapes: Any) -> Any:
        if not path.exists():
            return None
        whole = path.read_bytes()
        seal, body = whole[:_SEAL], whole[_SEAL:]
        leaves, tree = jax.tree.flatten(shapes)
        sizes = [int(np.prod(leaf.shape)) * leaf.dtype.itemsize for leaf in leaves]
        if len(body) != sum(sizes) or seal != _digest(key, body):
            warnings.warn(
                f"the cached features in {str(path)!r} are damaged: they are computed again",
                RuntimeWarning,
                stacklevel=3,
            )
            return None
        ends = np.cumsum([0, *sizes])
        parts = [
            np.frombuffer(bytearray(body[start:end]), leaf.dtype).reshape(leaf.shape)
            for leaf, start, end in zip(leaves, ends, ends[1:], strict=False)
        ]
        return jax.tree.unflatten(tree, parts)

    @staticmethod
    def _write(path: Path, key: bytes, made: Any) -> None:
        body = b"".join(np.ascontiguousarray(leaf).tobytes() for leaf in jax.tree.leaves(made))
        path.parent.mkdir(exist_ok=True)
        replace_file(path, _digest(key, body) + body)


def compiled(run: Callable[[Any, Any], Any], variables: Variables, cache: str | Path | None) -> Callable[[Any], Any]:
    """`run(variables, x)` as a compiled function of x, whose results are kept in a folder if one is given.

    The function holds the variables on the device. `run` is compiled once for all variables of equal shapes.
    """
    if cache is not None:
        return Cache(cache, run, variables)
    jitted, placed = jax.jit(run), jax.device_put(variables)  # once, because each call would copy NumPy arrays
    put = near(placed)
    return lambda x: jitted(placed, put(x))


def _named(kind: str, tree: Any) -> dict[str, Any]:
    return {f"{kind}/{path}": leaf for path, leaf in flatten(tree).items()}


def _content(leaves: dict[Any, Any]) -> Any:
    """Yields the name, dtype, shape and bits of each array."""
    for name, leaf in sorted(leaves.items()):
        array = np.asarray(leaf)
        yield f"{name} {array.dtype} {array.shape}".encode()
        yield np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _digest(*parts: Any) -> bytes:
    """SHA-256 of parts, each preceded by its length, so that different lists of parts never give the same bytes."""
    found = hashlib.sha256()
    for part in parts:
        found.update(len(part).to_bytes(8, "little"))
        found.update(part)
    return found.digest()
