"""Runs a network over examples, in batches of few shapes, so that there are few compilations."""

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
    """Computes `run(x)` for every example, an array [rows, ...] or a tree of such arrays.

    Texts of similar length share a batch, which is cut to 16, 32, 64 ... tokens. This saves computation on padding, and
    needs one compilation per length.

    Args:
      run: a jitted function of a batch's input.
      inputs: converts examples to input.
      items: files or texts.
      batch: rows per batch; the last batch is filled up with copies, whose results are dropped.
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
    """Returns some rows of tokenized texts, without the padding that all of them have beyond their bucket's length."""
    longest = x["mask"].shape[1]
    reached, left = extent(x["mask"])
    length = bucket(int(reached[rows].max()), longest)
    kept = slice(longest - length, None) if left else slice(0, length)
    return {name: cut(value[rows], longest, kept) for name, value in x.items()}


def logits(loaded: Pretrained, inputs: Inputs) -> Callable[[Sequence[Any]], np.ndarray]:
    """Returns a function from examples to the network's outputs [rows, classes] in evaluation mode."""
    run = _logits(loaded.backbone, loaded.head)
    return lambda items: through(compiled(run, loaded.variables, None), inputs, items)


def features(
    loaded: Pretrained, inputs: Inputs, read: Read | None = None, cache: Path | None = None
) -> Callable[[Sequence[Any]], np.ndarray]:
    """Returns a function from examples to the backbone features that the head reads, [rows, width].

    Args:
      loaded: the network.
      inputs: converts examples to its input.
      read: the features to return; None for those that the head reads.
      cache: a folder that keeps the features; see `jtl.finetuning.Cache`.
    """
    run = _features(loaded.backbone, loaded.head.reads if read is None else read)
    own = part(loaded.variables, "backbone")
    return lambda items: through(compiled(run, own, cache), inputs, items)


def with_logits(
    loaded: Pretrained, inputs: Inputs, cache: Path | None = None
) -> Callable[[Sequence[Any]], dict[str, np.ndarray]]:
    """Returns a function from examples to both `features`, which the head reads, and `logits`, in one pass."""

    def run(variables: Variables, x: Any) -> Any:
        found = loaded.network.apply(variables, x, train=False)[0]
        return {"features": found.read, "logits": found.output}

    return lambda items: through(compiled(run, loaded.variables, cache), inputs, items)


# jax caches compilations by function, so networks that differ only in their weights must share one function.
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
