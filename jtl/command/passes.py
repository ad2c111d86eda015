"""One pass of a network over examples, in batches of few shapes, so with few compilations."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from jtl.command.model import Inputs
from jtl.data.lengths import bucket, cut, extent
from jtl.networks import part
from jtl.pretrained.load import Pretrained


def through(run: Callable, inputs: Inputs, items: Sequence[Any], batch: int = 32) -> np.ndarray:
    """`run(x)` of every example, [rows, ...].

    Texts of similar length share a batch, which is cut to 16, 32, 64 ... tokens: what padding would be computed for
    longer ones is saved, and there is one compilation for each length.

    Args:
      run: of a batch's input, a jitted function.
      inputs: from examples to input.
      items: files or texts.
      batch: rows of a batch; the last one is filled up with copies, which are dropped.
    """
    if not len(items):
        raise ValueError("there are no examples to run the network on")
    whole = None if inputs.tokens is None else inputs.read(items)
    counts = np.zeros(len(items), int) if whole is None else whole["mask"].sum(1)
    order, found = np.argsort(counts, kind="stable"), []
    for start in range(0, len(items), batch):
        rows = order[start : start + batch]
        full = np.concatenate([rows, np.repeat(rows[-1:], batch - len(rows))])
        x = inputs.read([items[i] for i in full]) if whole is None else shortened(whole, full)
        found.append(np.asarray(run(x))[: len(rows)])
    return np.concatenate(found)[np.argsort(order, kind="stable")]


def shortened(x: dict[str, np.ndarray], rows: np.ndarray) -> dict[str, np.ndarray]:
    """Some rows of tokenized texts, without the padding that all of them have beyond their bucket's length."""
    longest = x["mask"].shape[1]
    reached, left = extent(x["mask"])
    length = bucket(int(reached[rows].max()), longest)
    kept = slice(longest - length, None) if left else slice(0, length)
    return {name: cut(value[rows], longest, kept) for name, value in x.items()}


def logits(loaded: Pretrained, inputs: Inputs) -> Callable[[Sequence[Any]], np.ndarray]:
    """A function of examples: the network's outputs [rows, classes] in evaluation mode."""
    run = jax.jit(lambda v, x: loaded.network.apply(v, x, train=False)[0].output)
    return lambda items: through(lambda x: run(loaded.variables, x), inputs, items)


def features(loaded: Pretrained, inputs: Inputs) -> Callable[[Sequence[Any]], np.ndarray]:
    """A function of examples: what the head reads of the backbone, [rows, width]."""
    own, reads = part(loaded.variables, "backbone"), loaded.head.reads
    run = jax.jit(lambda v, x: reads(loaded.backbone.apply(v, x, train=False)[0], x))
    return lambda items: through(lambda x: run(own, x), inputs, items)
