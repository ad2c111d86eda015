"""The rows of an evaluation as arrays: logits, features, and other outputs of an objective for each example."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jtl import rng
from jtl.data.pipeline import matched
from jtl.model import Model, Variables
from jtl.objective import Objective, as_objective
from jtl.train.evaluate import passes
from jtl.typing import Aux


def collect(
    objective: Objective | Callable,
    variables: Variables,
    data: Any,
    *,
    only: Sequence[str] | None = None,
    mesh: Mesh | None = None,
    key: Any = None,
) -> dict[str, Any]:
    """Iterates over a data set once and collects the rows of an objective's `Aux.outputs`.

    Args:
      objective: an objective in evaluation mode, such as `evaluation(net)`, whose outputs are `output`, `read` and `y`.
      variables: the parameters and statistics.
      data: `len(data)` batches; with several processes each passes its own rows.
      only: the names to collect; other outputs cost nothing. None for all.
      mesh: the devices to run on; None for those that hold the parameters.
      key: the root key for an objective that draws random numbers.

    Returns:
      Name -> tree of NumPy arrays [examples, ...], in the order of the batches; every process gets all rows. Rows that
      the batch's `mask` leaves out are dropped.

    Raises:
      ValueError: for an objective without outputs, a name that it does not have, an output without exactly one row for
        each row of the batch, an output whose shape differs from batch to batch, or if there is no batch.

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> net = jtl.network(backbone=jtl.backbones.mlp((8,)), head=jtl.heads.linear(3))
      >>> data = jtl.data.arrays(jnp.zeros((6, 5)), jnp.zeros(6, int), batch_size=4, shuffle=False)
      >>> variables = net.init(jax.random.key(0), data[0]["x"])
      >>> found = jtl.collect(jtl.evaluation(net), variables, data, only=("output", "y"))
      >>> found["output"].shape, found["y"].shape
      ((6, 3), (6,))
    """
    return collector(objective, only=only)(variables, data, mesh=mesh, key=key)


def collector(objective: Objective | Callable, *, only: Sequence[str] | None = None) -> Callable[..., dict[str, Any]]:
    """`collect` for a given objective: compiled at the first call and reused afterwards."""
    objective = as_objective(objective)

    def run(variables, batch, key, index):
        key = rng.stream(key, "evaluate", index)
        outputs = objective(variables.params, variables.stats, batch, key, index)[1].outputs
        missing = sorted(set(only or ()) - outputs.keys())
        if missing or not outputs:
            raise ValueError(f"only={only}: this objective has the outputs {sorted(outputs)}")
        found = {name: outputs[name] for name in (outputs if only is None else only)}
        return found, batch.get("mask")

    through = passes(run)

    def collection(variables: Variables, data: Any, *, mesh: Mesh | None = None, key: Any = None) -> dict[str, Any]:
        parts, data = [], matched(data, objective.classes, "the data")
        for (found, mask), _ in through(variables, data, mesh=mesh, key=key):
            parts.append(found if mask is None else jax.tree.map(lambda a, kept=mask > 0: _kept(a, kept), found))
        return {name: jax.tree.map(partial(_joined, name), *(part[name] for part in parts)) for name in parts[0]}

    return collection


def predict(net: Model, variables: Variables, data: Any, *, mesh: Mesh | None = None) -> Any:
    """A network's outputs for all examples of a data set, in evaluation mode.

    Args:
      net: `jtl.network(backbone=..., head=...)`.
      variables: the variables of the network.
      data: batches of `{"x", "mask"}`; the mask is optional, and rows that it leaves out are dropped.
      mesh: the devices to run on; None for those that hold the parameters.

    Returns:
      NumPy arrays [examples, ...] in the order of the batches; a dict by name for a network of several heads.

    Raises:
      ValueError: if there is no batch.

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> net = jtl.network(backbone=jtl.backbones.mlp((8,)), head=jtl.heads.linear(3))
      >>> data = jtl.data.arrays(jnp.zeros((6, 5)), batch_size=4, shuffle=False)
      >>> variables = net.init(jax.random.key(0), data[0]["x"])
      >>> jtl.predict(net, variables, data).shape
      (6, 3)
    """

    def outputs(params, stats, batch, key, step):
        del key, step
        out = net.apply(Variables(params, stats), batch["x"], train=False, key=None)[0].output
        return jnp.zeros(()), Aux(stats, outputs={"output": out})

    return collect(outputs, variables, data, mesh=mesh)["output"]


def _joined(name: str, *rows: np.ndarray) -> np.ndarray:
    shapes = {a.shape[1:] for a in rows}
    if len(shapes) > 1:
        raise ValueError(
            f"{name!r} has rows of the shapes {sorted(shapes)}, which are not of one array: collect from data of one"
            " shape; of jtl.data.by_length, give its uncut rows, data.whole"
        )
    return np.concatenate(rows)


def _kept(rows: Any, kept: np.ndarray) -> Any:
    if np.ndim(rows) == 0 or len(rows) != len(kept):
        raise ValueError(f"an output of shape {np.shape(rows)} has not one row for each of the batch's {len(kept)}")
    return rows[kept]
