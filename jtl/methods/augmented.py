"""Augmentation on the device, in front of any objective."""

from collections.abc import Callable, Mapping
from typing import Any

from jtl import rng
from jtl.model import Variables
from jtl.objective import NONE, Objective, as_objective
from jtl.typing import Aux, Batch, Key, Params, Stats


def augmented(objective: Objective | Callable, augment: Callable[[Key, Any], Any]) -> Objective:
    """The objective on batches whose `x` were augmented; evaluation, another objective, is not touched.

    What is drawn is a function of the run's key and the step. In a batch of parts (source and target, support and
    query) each part draws for itself.

    Args:
      objective: any.
      augment: `augment(key, x) -> x`, as those of `jtl.data.augment`.

    Raises:
      ValueError: while tracing, for a batch that holds no `x`.
    """
    inner = as_objective(objective)

    def wrapped(params: Params, stats: Stats, batch: Batch, key: Key, step: Any) -> tuple[Any, Aux]:
        return inner(params, stats, _changed(batch, rng.stream(key, "augment")), key, step)

    def _changed(batch: Batch, key: Key) -> dict[str, Any]:
        parts = {
            n: _changed(part, rng.stream(key, n)) for n, part in batch.items() if isinstance(part, Mapping) and n != "x"
        }
        if not parts and "x" not in batch:
            raise ValueError(f"nothing to augment: the batch holds {sorted(batch)}, no 'x'")
        own = {"x": augment(key, batch["x"])} if "x" in batch else {}
        return {**batch, **parts, **own}

    def init(key: Key, batch: Batch, given: Variables = NONE) -> Variables:
        return inner.init(key, _changed(batch, rng.stream(key, "augment")), given)

    return Objective(wrapped, init, inner.commit)
