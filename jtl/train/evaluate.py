"""Evaluation: an objective's loss and metrics over a whole data set."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jtl import rng
from jtl._tracing import scope
from jtl.data.pipeline import counted_classes, matched
from jtl.metrics import accumulate
from jtl.model import Variables
from jtl.objective import Objective, as_objective
from jtl.params import flatten
from jtl.train.blame import bright_images
from jtl.train.parallel import sharding
from jtl.train.parallel.consistency import agree, checksums, sees_all
from jtl.train.parallel.place import place
from jtl.train.prefetch import feed, rows


@dataclass(frozen=True)
class Validation:
    """What `fit` evaluates, how often, and which metric decides.

    Args:
      objective: an objective in evaluation mode, such as `methods.finetune.evaluation(...)`.
      data: a data set; each evaluation goes through all of it.
      every: the number of steps between evaluations; None for an epoch of the training data.
      watch: the name of the number that selects the best checkpoint and decides early stopping; `name/result` for a
        metric with several results.
      mode: "min" if smaller is better, "max" if larger is; it may be omitted only for "loss".
      patience: stop after this many evaluations in a row without a new best; None for no early stopping.
      also: functions of the variables that return more numbers by name, such as metrics that need all rows at once
        (`jtl.collect`).

    Raises:
      ValueError: for numbers below 1, another mode, or no mode when one is needed.

    Example:
      >>> import jax.numpy as jnp, jtl
      >>> net = jtl.network(backbone=jtl.backbones.mlp((8,)), head=jtl.heads.linear(3))
      >>> data = jtl.data.arrays(jnp.zeros((8, 5)), jnp.zeros(8, int), batch_size=4, shuffle=False)
      >>> validation = jtl.Validation(jtl.evaluation(net), data, watch="accuracy", mode="max", patience=3)
    """

    objective: Objective | Callable
    data: Any
    every: int | None = None
    watch: str = "loss"
    mode: Literal["min", "max"] | None = None
    patience: int | None = None
    also: Sequence[Callable[[Variables], Mapping[str, float]]] = ()

    def __post_init__(self):
        if self.mode is None and self.watch != "loss":
            raise ValueError(f"watch={self.watch!r} without mode: give 'min' where small is good, 'max' where large is")
        if self.mode not in (None, "min", "max"):
            raise ValueError(f"mode={self.mode!r}: 'min' where small is good, 'max' where large is")
        if any(n is not None and n < 1 for n in (self.every, self.patience)):
            raise ValueError(f"every={self.every}, patience={self.patience}: both are at least 1")

    def score(self, found: dict[str, float]) -> float:
        """The watched number, negated if lower is better.

        Raises:
          ValueError: if the objective has no such number, or it is an array.
        """
        if self.watch not in found:
            raise ValueError(f"watch={self.watch!r}: the validation objective gives {sorted(found)}")
        if not isinstance(found[self.watch], float):
            shape = np.shape(found[self.watch])
            raise ValueError(f"watch={self.watch!r} is an array of shape {shape}; watch one number")
        return found[self.watch] if self.mode == "max" else -found[self.watch]


def evaluate(
    objective: Objective | Callable, variables: Variables, data: Any, *, mesh: Mesh | None = None, key: Any = None
) -> dict[str, Any]:
    """Evaluates on a data set: `Σ_batches total / Σ_batches count` of the loss and of every metric.

    Sums are added in float64, over the rows that masks keep, so the batch size, a padded last batch and the number of
    devices do not change the results.

    Args:
      objective: an objective in evaluation mode; its statistics are dropped.
      variables: the parameters and statistics.
      data: `len(data)` batches, from `data[0]` on.
      mesh: the devices to run on; None for those that hold the parameters.
      key: the root key for an objective that draws random numbers.

    Returns:
      "loss", its terms if there are several, and the metrics: floats, or arrays for metrics that are arrays.

    Raises:
      ValueError: if there is no batch, or no row that counts; if processes have different numbers of batches or rows;
        for a metric, or one of several terms, named "loss" (while tracing); for data split between processes and a mesh
        that does not span them.

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> net = jtl.network(backbone=jtl.backbones.mlp((8,)), head=jtl.heads.linear(3))
      >>> data = jtl.data.arrays(jnp.zeros((6, 5)), jnp.zeros(6, int), batch_size=4, shuffle=False)
      >>> variables = net.init(jax.random.key(0), data[0]["x"])
      >>> sorted(jtl.evaluate(jtl.evaluation(net), variables, data))
      ['accuracy', 'loss']
    """
    return evaluator(objective)(variables, data, mesh=mesh, key=key)


def evaluator(objective: Objective | Callable) -> Callable[..., dict[str, Any]]:
    """`evaluate` for a given objective: compiled at the first call and reused afterwards.

    Raises:
      ValueError: as `evaluate`.

    Example:
      >>> import jax, numpy as np, jtl
      >>> net = jtl.network(backbone=jtl.backbones.identity(), head=jtl.heads.linear(3, zero_init=True))
      >>> data = jtl.data.arrays(np.ones((6, 5), np.float32), np.zeros(6, int), batch_size=3, shuffle=False)
      >>> run = jtl.train.evaluator(jtl.finetune(net))
      >>> results = run(net.init(jax.random.key(0), data[0]["x"]), data)
      >>> round(results["loss"], 3), results["accuracy"]
      (1.099, 1.0)
    """
    objective = as_objective(objective)

    def run(variables, batch, key, index):
        loss, aux = objective(variables.params, variables.stats, batch, rng.stream(key, "evaluate", index), index)
        terms = accumulate.as_terms(loss)
        accumulate.distinct(terms, aux.metrics)
        return terms, accumulate.as_sums(aux.metrics)

    through = passes(run)

    def evaluation(variables: Variables, data: Any, *, mesh: Mesh | None = None, key: Any = None) -> dict[str, Any]:
        sums, data = None, matched(data, objective.classes, "the data to evaluate on")
        for found, _ in through(variables, data, mesh=mesh, key=key):
            new = jax.tree.map(lambda a: np.asarray(a, np.float64), found)
            sums = new if sums is None else accumulate.added(sums, new)
        terms, metrics = sums  # pyright: ignore[reportGeneralTypeIssues]  # there is at least one batch
        if terms and all(not count > 0 for _, count in terms.values()):
            raise ValueError(
                f"the data to evaluate on have no row that counts, in {len(data)} batches: masks, weights and ignored"
                " labels leave none, so there is no loss"
            )
        losses = {n: float(total / count) if count > 0 else 0.0 for n, (total, count) in terms.items()}
        with jax.transfer_guard("allow"):  # a metric's `finish` may compute with jax
            return {"loss": sum(losses.values()), **(losses if len(losses) > 1 else {}), **_results(metrics)}

    return evaluation


def _results(metrics: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, m in metrics.items():
        if isinstance(m, accumulate.Mean):
            found[name] = float(m.total / m.count) if m.count > 0 else 0.0
        else:
            for part, value in accumulate.values({name: m}).items():
                found[part] = float(value) if np.ndim(value) == 0 else np.asarray(value)
    return found


def passes(run: Callable) -> Callable[..., Iterator[tuple[Any, Any]]]:
    """`through(variables, data, mesh=..., key=...)` yields `(run(variables, batch, key, index), batch)` for each batch.

    Results are replicated over the devices and returned as NumPy arrays; each is read only after the next batch was
    handed to the devices. `run` is compiled once per mesh and batch shape.
    """
    compiled: dict[Mesh, Callable] = {}
    notes: set[str] = set()  # made while `run` is traced

    def through(
        variables: Variables, data: Any, *, mesh: Mesh | None = None, key: Any = None
    ) -> Iterator[tuple[Any, Any]]:
        if not len(data):
            raise ValueError("the data set to evaluate on is empty")
        mesh = sharding.automatic(_mesh_of(variables) if mesh is None else mesh)
        sees_all(mesh, data)
        agree(mesh, "processes have data of different lengths", {"len(data)": len(data)})
        agree(mesh, "processes have different parameters", checksums(flatten(variables.params)))
        whole = NamedSharding(mesh, PartitionSpec())
        if mesh not in compiled:

            def counted(variables, batch, key, index):
                with scope.noting(notes):
                    return run(variables, batch, key, index), index + 1

            compiled[mesh] = jax.jit(counted, out_shardings=whole)

        def there(a: Any) -> Any:
            return place(a, NamedSharding(mesh, a.sharding.spec)) if _on(a, mesh) else place(a, whole)

        with jax.transfer_guard("allow"):
            variables = jax.tree.map(there, variables)
            key = there(jax.random.key(0) if key is None else key)
            index = place(jnp.zeros((), jnp.int32), whole)
        pending, seen = None, 0
        with closing(feed(data, range(len(data)), mesh, fixed=False)) as batches:
            for batch in batches:
                found, index = compiled[mesh](variables, batch, key, index)
                if pending is None:
                    counted_classes(data, scope.outputs_of(notes))
                else:
                    yield _read(*pending, "normalise" in notes), pending[1]
                pending = (found, batch)
                seen += sum(rows(batch).values())
        assert pending is not None  # there is at least one batch
        yield _read(*pending, "normalise" in notes), pending[1]
        agree(mesh, "processes give batches of different sizes", {"the rows of all": seen})

    return through


def _read(found: Any, batch: Any, normalised: bool) -> Any:
    """The results of a batch as NumPy arrays; refuses a NaN that comes from images of another range."""
    found = jax.device_get(found)
    if normalised and any(jnp.issubdtype(a.dtype, jnp.floating) and np.isnan(a).any() for a in jax.tree.leaves(found)):
        with jax.transfer_guard("allow"):
            why = bright_images(batch)
        if why:
            raise ValueError(why)
    return found


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
