"""Detects weights whose batch normalisation was folded into the convolutions before it."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np

from jtl.model import Variables
from jtl.params import flatten

_ADVISED = ContextVar("advised", default=True)


def folded(variables: Variables) -> bool:
    """Returns whether the running statistics are meaningless, because batch normalisation was folded into convolutions.

    Such weights have mean 0 and one constant variance everywhere. Their statistics must stay frozen, because in
    training mode the batch statistics would undo the pretraining. Weights that were never trained have such statistics
    too, but also one constant scale and shift in each normalisation, so they do not count.
    """
    stats = flatten(variables.stats)
    means = [np.asarray(leaf) for path, leaf in stats.items() if path.endswith("mean")]
    spreads = [np.asarray(leaf) for path, leaf in stats.items() if path.endswith("var")]
    own = [leaf for path, leaf in flatten(variables.params).items() if f"{path.rpartition('/')[0]}/mean" in stats]
    if own and all(np.ptp(np.asarray(leaf)) == 0 for leaf in own):
        return False
    return bool(means) and all((m == 0).all() for m in means) and all((np.ptp(v) < 1e-6) for v in spreads)


def advise(source: Any, variables: Variables) -> None:
    """Warns in the log "jtl.load" that training must keep the statistics, if batch normalisation was folded.

    Args:
      source: what was loaded, for the message.
      variables: the loaded variables.
    """
    if _ADVISED.get() and folded(variables):
        logging.getLogger("jtl.load").warning(
            "%s: batch normalisation was folded into the convolutions, so running statistics say nothing; train with"
            " jtl.finetune(..., frozen_stats=True), or with another objective train no parameter of a normalisation,"
            " because the statistics of a batch would undo the pretraining (the commands do so)",
            source,
        )


@contextmanager
def unadvised() -> Iterator[None]:
    """While entered, `advise` is silent: the caller trains nothing, or keeps the statistics itself."""
    before = _ADVISED.set(False)
    try:
        yield
    finally:
        _ADVISED.reset(before)
