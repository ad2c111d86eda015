"""Evaluation: the sums of an objective's means over a whole data set."""

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jtl import rng
from jtl.metrics import accumulate
from jtl.model import Variables
from jtl.params import flatten
from jtl.train.parallel import sharding
from jtl.train.parallel.consistency import agree, checksums
from jtl.train.parallel.place import place
from jtl.train.prefetch import feed, rows
from jtl.typing import Objective


@dataclass(frozen=True)
class Validation:
    """What `fit` looks at now and then, and what it decides by it.

    Args:
      objective: in evaluation mode, as `methods.finetune.evaluation(...)`.
      data: a data set; each evaluation goes through all of it.
      every: steps between evaluations; None: an epoch of the training data.
      watch: the number that names the best checkpoint and stops early.
      mode: whether it should be small or large.
      patience: stop after so many evaluations in a row without a new best; None never does.

    Raises:
      ValueError: for numbers below 1 or another mode.
    """

    objective: Objective
    data: Any
    every: int | None = None
    watch: str = "loss"
    mode: Literal["min", "max"] = "min"
    patience: int | None = None

    def __post_init__(self):
        if self.mode not in ("min", "max"):
            raise ValueError(f"mode={self.mode!r}: 'min' where small is good, 'max' where large is")
        if any(n is not None and n < 1 for n in (self.every, self.patience)):
            raise ValueError(f"every={self.every}, patience={self.patience}: both are at least 1")

    def score(self, found: dict[str, float]) -> float:
        """The watched number, turned so that higher is better.

        Raises:
          ValueError: where the objective has no such number.
        """
        if self.watch not in found:
            raise ValueError(f"watch={self.watch!r}: the validation objective gives {sorted(found)}")
        return found[self.watch] if self.mode == "max" else -found[self.watch]


def evaluate(
    objective: Objective, variables: Variables, data: Any, *, mesh: Mesh | None = None, key: Any = None
) -> dict[str, float]:
    """Goes through a data set once: `Σ_batches total / Σ_batches count` of the loss and of every metric.

    Sums are added in float64, over the rows that masks keep, so the batch size, a padded last batch and the
    number of devices do not change what is computed.

    Args:
      objective: in evaluation mode; its statistics are dropped.
      variables: the parameters and statistics.
      data: `len(data)` batches, `data[0]` on.
      mesh: where to run; None: where the parameters are.
      key: root of the randomness of an objective that draws any.

    Returns:
      "loss", its terms where there are several, and the metrics.

    Raises:
      ValueError: where there is no batch, or where processes have other numbers of batches or rows.
    """
    return evaluator(objective)(variables, data, mesh=mesh, key=key)


def evaluator(objective: Objective) -> Callable[..., dict[str, float]]:
    """`evaluate` with the objective given: compiled at the first call and used again after."""

    @jax.jit
    def run(variables, batch, key, index):
        loss, aux = objective(variables.params, variables.stats, batch, rng.stream(key, "evaluate", index), index)
        terms = accumulate.as_terms(loss)
        return terms, {name: accumulate.as_terms(value)["loss"] for name, value in aux.metrics.items()}, index + 1

    def evaluation(variables: Variables, data: Any, *, mesh: Mesh | None = None, key: Any = None) -> dict[str, float]:
        if not len(data):
            raise ValueError("the data set to evaluate on is empty")
        mesh = sharding.automatic(_mesh_of(variables) if mesh is None else mesh)
        agree(mesh, "processes have data of other lengths", {"len(data)": len(data)})
        agree(mesh, "processes have other parameters", checksums(flatten(variables.params)))
        whole = NamedSharding(mesh, PartitionSpec())

        def there(a: Any) -> Any:
            return place(a, NamedSharding(mesh, a.sharding.spec)) if _on(a, mesh) else place(a, whole)

        with jax.transfer_guard("allow"):
            variables = jax.tree.map(there, variables)
            key = jax.random.key(0) if key is None else key
            key = there(key)
            index = place(jnp.zeros((), jnp.int32), whole)
        sums, pending, seen = None, None, 0
        with closing(feed(data, range(len(data)), mesh, fixed=False)) as batches:
            for batch in batches:
                *found, index = run(variables, batch, key, index)
                sums = _added(sums, pending)
                pending = found
                seen += sum(rows(batch).values())
        sums = _added(sums, pending)
        agree(mesh, "processes give batches of other sizes", {"the rows of all": seen})
        terms, metrics = (
            {n: float(total / count) if count > 0 else 0.0 for n, (total, count) in p.items()} for p in sums
        )
        return {"loss": sum(terms.values()), **(terms if len(terms) > 1 else {}), **metrics}

    return evaluation


def _added(sums: Any, means: Any) -> Any:
    """Adds one batch's sums, read only after the next batch was handed to the devices."""
    if means is None:
        return sums
    new = jax.tree.map(lambda a: np.asarray(a, np.float64), jax.device_get(means))
    return new if sums is None else jax.tree.map(np.add, sums, new)


def _on(leaf: Any, mesh: Mesh) -> bool:
    return (
        isinstance(getattr(leaf, "sharding", None), NamedSharding)
        and leaf.sharding.mesh.axis_names == mesh.axis_names
        and leaf.sharding.mesh.devices.tolist() == mesh.devices.tolist()
    )


def _mesh_of(variables: Variables) -> Mesh:
    leaves = jax.tree.leaves(variables.params)
    place = getattr(leaves[0], "sharding", None) if leaves else None
    if (
        isinstance(place, NamedSharding)
        and isinstance(place.mesh, Mesh)
        and set(place.mesh.axis_names) == {"data", "fsdp"}
    ):
        return place.mesh
    return sharding.mesh(
        devices=jax.local_devices()[:1] if place is None else sorted(place.device_set, key=lambda d: d.id)
    )
