"""What an error message about a NaN says about the labels and the images of a batch."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jtl.data.augment import BRIGHTEST
from jtl.params import flatten
from jtl.typing import Params


def labels_of(batch: Any, params: Params) -> str:
    """The smallest and the largest integer label of a batch, and how many outputs the head has.

    Args:
      batch: a tree with labels `y`, possibly one for each of several views.
      params: the parameters of the network; the bias below `head/` tells how many outputs the head has.

    Returns:
      For example "(y lies in [1, 3], the head has 3 outputs)"; empty if neither is known.

    Example:
      >>> import jax.numpy as jnp, numpy as np
      >>> labels_of({"y": np.array([1, 3, 2])}, {"head": {"bias": jnp.zeros(3)}})
      '(y lies in [1, 3], the head has 3 outputs)'
    """
    ranges = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(batch):
        names = [str(getattr(part, "key", getattr(part, "name", part))) for part in path]
        on_host = isinstance(leaf, np.ndarray)  # what lies on other processes cannot be read
        if "y" in names and on_host and leaf.size and np.issubdtype(leaf.dtype, np.integer):
            ranges.append(f"{'/'.join(names)} lies in [{leaf.min()}, {leaf.max()}]")
    biases = [leaf for path, leaf in flatten(params).items() if path.startswith("head/") and path.endswith("bias")]
    biases = [leaf for leaf in biases if leaf.ndim == 1]
    widths = [f"the head has {biases[0].shape[-1]} outputs"] if len(biases) == 1 else []
    return f"({', '.join(ranges + widths)})" if ranges else ""


def bright_images(batch: Any) -> str:
    """Names float images of a batch that `jtl.data.augment.normalise` turns into NaN, because they are too bright.

    Args:
      batch: a tree; float arrays with four axes at or below `x` are images. Arrays on other processes are skipped.

    Returns:
      For example "x reaches 255: ..."; empty if there are none.

    Example:
      >>> import numpy as np
      >>> bright_images({"x": np.full((1, 2, 2, 3), 255.0)})[:14]
      'x reaches 255:'
    """
    for path, leaf in jax.tree_util.tree_leaves_with_path(batch):
        names = [str(getattr(part, "key", getattr(part, "name", part))) for part in path]
        images = "x" in names and jnp.ndim(leaf) == 4 and jnp.issubdtype(leaf.dtype, jnp.floating)
        if not images or not leaf.size or not getattr(leaf, "is_fully_addressable", True):
            continue
        brightest = float(np.asarray(leaf).max())
        if brightest > BRIGHTEST:
            return (
                f"{'/'.join(names)} reaches {brightest:g}: float images above {BRIGHTEST:g} become NaN where they are"
                " normalised; give floats in [0, 1], or the integers 0 to 255 as they are"
            )
    return ""
