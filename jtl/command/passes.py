"""One pass of a network over examples, in batches of few shapes, so with few compilations."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jtl.command.model import Inputs
from jtl.data.lengths import bucket, cut, extent
from jtl.methods.finetune.cache import compiled
from jtl.model import Model, Variables
from jtl.networks import network, part
from jtl.pretrained.load import Pretrained
from jtl.reads import Read


def through(run: Callable, inputs: Inputs, items: Sequence[Any], batch: int = 32) -> Any:
    """`run(x)` of every example, an array [rows, ...] or a tree of such.

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
        found.append(jax.tree.map(np.asarray, run(x)))
    back = np.argsort(order, kind="stable")  # the copies at the end are not among these rows
    return jax.tree.map(lambda *parts: np.concatenate(parts)[back], *found)


def shortened(x: dict[str, np.ndarray], rows: np.ndarray) -> dict[str, np.ndarray]:
    """Some rows of tokenized texts, without the padding that all of them have beyond their bucket's length."""
    longest = x["mask"].shape[1]
    reached, left = extent(x["mask"])
    length = bucket(int(reached[rows].max()), longest)
    kept = slice(longest - length, None) if left else slice(0, length)
    return {name: cut(value[rows], longest, kept) for name, value in x.items()}


def logits(loaded: Pretrained, inputs: Inputs) -> Callable[[Sequence[Any]], np.ndarray]:
    """A function of examples: the network's outputs [rows, classes] in evaluation mode."""
    run = _logits(loaded.backbone, loaded.head)
    return lambda items: through(compiled(run, loaded.variables, None), inputs, items)


def features(
    loaded: Pretrained, inputs: Inputs, read: Read | None = None, cache: Path | None = None
) -> Callable[[Sequence[Any]], np.ndarray]:
    """A function of examples: what the head reads of the backbone, [rows, width].

    Args:
      loaded: the network.
      inputs: from examples to its input.
      read: other features than the head's.
      cache: a folder that keeps them; see `jtl.finetuning.Cache`.
    """
    run = _features(loaded.backbone, loaded.head.reads if read is None else read)
    own = part(loaded.variables, "backbone")
    return lambda items: through(compiled(run, own, cache), inputs, items)


def with_logits(
    loaded: Pretrained, inputs: Inputs, cache: Path | None = None
) -> Callable[[Sequence[Any]], dict[str, np.ndarray]]:
    """A function of examples: `features`, what the head reads, and `logits`, its outputs, by one pass."""

    def run(variables: Variables, x: Any) -> Any:
        found = loaded.network.apply(variables, x, train=False)[0]
        return {"features": found.read, "logits": found.output}

    return lambda items: through(compiled(run, loaded.variables, cache), inputs, items)


# jax compiles a function once for equal shapes, so a network with other weights must come as the same function.
@lru_cache(maxsize=8)
def _logits(backbone: Model, head: Model) -> Callable[[Variables, Any], Any]:
    net = network(backbone=backbone, head=head)

    def run(variables: Variables, x: Any) -> Any:
        return net.apply(variables, x, train=False)[0].output

    return run


@lru_cache(maxsize=8)
def _features(backbone: Model, read: Read) -> Callable[[Variables, Any], Any]:
    def run(variables: Variables, x: Any) -> Any:
        return read(backbone.apply(variables, x, train=False)[0], x)

    return run
