"""Short texts of what a data set holds, by which a resumed run sees that its data changed."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

LIMIT = 2**30
"""Of a larger array, only so many bytes are hashed, of rows evenly apart: the run waits for them when it begins."""
FILES = 10_000
"""Of more files, the sizes of so many are read, evenly apart: on a network each takes about a millisecond."""
_PART = 2**24


def of_arrays(tree: Any) -> str:
    """Returns the hash of arrays [rows, ...] with their paths in the tree, shapes and types.

    Example:
      >>> import numpy as np
      >>> from jtl.data.content import of_arrays
      >>> of_arrays({"x": np.zeros(3)}) == of_arrays({"x": np.zeros(3)}) != of_arrays({"x": np.zeros(4)})
      True
    """
    found = hashlib.sha256()
    for path, leaf in jax.tree.leaves_with_path(tree):
        array = np.asarray(leaf)
        found.update(f"{jax.tree_util.keystr(path)} {array.dtype}{array.shape}".encode())
        rows = array[:: max(1, -(-array.nbytes // LIMIT))]
        count = max(1, _PART // max(1, array[:1].nbytes))
        for start in range(0, len(rows), count):  # in parts, for arrays mapped from disk
            found.update(rows[start : start + count].tobytes())
    return found.hexdigest()[:24]


def of_files(files: Sequence[Path], labels: Any) -> str:
    """Returns the hash of the names and sizes of files, in order, and of their labels; folders may move."""
    apart = max(1, -(-len(files) // FILES))
    sizes = [file.stat().st_size for file in files[::apart]]
    return of_texts([*(file.name for file in files), *map(str, sizes)], labels)


def of_texts(texts: Sequence[str], labels: Any) -> str:
    """Returns the hash of texts, in order, and of their labels."""
    found = hashlib.sha256()
    for text in texts:
        raw = text.encode("utf-8", "surrogatepass")
        found.update(len(raw).to_bytes(8, "little") + raw)
    return f"{found.hexdigest()[:24]} {of_arrays(labels)}"


def contents(data: Any, path: str = "content") -> dict[str, str]:
    """Returns the `content` of a data set, or those of its `parts`, by path; what has neither is left out.

    Example:
      >>> import numpy as np, jtl
      >>> from jtl.data.content import contents
      >>> one = jtl.data.arrays(np.zeros((4, 2)), batch_size=2)
      >>> sorted(contents(jtl.data.pair(one, one)))
      ['content/0', 'content/1']
    """
    own = getattr(data, "content", None)
    if isinstance(own, str):
        return {path: own}
    found: dict[str, str] = {}
    for i, part in enumerate(getattr(data, "parts", ())):
        found |= contents(part, f"{path}/{i}")
    return found
