"""AdaLoRA's regulariser: the factors of its updates near to orthogonal ones."""

from math import prod
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jtl._tracing import scope
from jtl.checked import within
from jtl.objective import Objective
from jtl.params import flatten
from jtl.peft.budgeted import triplets
from jtl.typing import Aux, Key, Params, Schedule, Stats


def orthogonality(weight: float | Schedule = 0.5, *, squared: bool = False, name: str = "orthogonality") -> Objective:
    """The term `γ mean (‖Uᵀ U − I‖_F, ‖V Vᵀ − I‖_F)` over the modules with `jtl.peft.adalora`.

    It is what the authors' code and PEFT compute. The paper writes the sum of the squares,
    `γ Σ (‖Uᵀ U − I‖_F² + ‖V Vᵀ − I‖_F²)`, with the same weights. With `make_step(dtype=)` the term uses the parameters
    before the cast.

    Args:
      weight: γ, a number or a function of the step; the paper takes .1 to .5.
      squared: whether to compute the sum of the squares.
      name: name of the term.

    Returns:
      A term for `finetune(net, loss, terms)` or an alignment for `adapt`.

    Raises:
      ValueError: for a weight that is negative or not finite; when called, if no module has such an adapter.

    Zhang et al., AdaLoRA: Adaptive Budget Allocation for Parameter-Efficient Fine-Tuning, 2023, arXiv 2303.10512.

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> net = jtl.network(backbone=jtl.backbones.mlp((8,)), head=jtl.heads.linear(3))
      >>> variables = net.init(jax.random.key(0), jnp.zeros((4, 5)))
      >>> net, variables = jtl.peft.attach(net, variables, jtl.peft.adalora(2, (".*",)), jax.random.key(1))
      >>> objective = jtl.finetune(net, terms=[jtl.peft.orthogonality()])
      >>> batch = {"x": jnp.zeros((4, 5)), "y": jnp.zeros(4, int)}
      >>> loss, _ = objective(variables.params, variables.stats, batch, jax.random.key(1), 0)
      >>> sorted(loss)
      ['orthogonality', 'supervised']
    """
    if not callable(weight):
        within("[0, inf)", weight=weight)

    def run(params: Params, stats: Stats, views: Any, key: Key | None, step: Any) -> tuple[Any, Aux]:
        del views, key
        flat = flatten(scope.unrounded(params))
        sides = [side for u, _, v in triplets(flat) for side in (_rows(flat[u]), flat[v].T)]
        squares = jnp.stack([_distance(side) for side in sides])
        value = squares.sum() if squared else _root(squares).mean()
        return {name: (weight(step) if callable(weight) else weight) * value}, Aux(stats)

    return Objective(run)


def _rows(factor: Array | np.ndarray) -> Float[Array | np.ndarray, "width rank"]:
    """A convolution's factor as a matrix; a rank may be 0, of which no shape of the rest follows."""
    return factor.reshape(prod(factor.shape[:-1]), factor.shape[-1])


def _distance(factor: Float[Array | np.ndarray, "width rank"]) -> Float[Array, ""]:
    """The square of the distance of `factorᵀ factor` from the identity."""
    wide = factor.astype(jnp.promote_types(factor.dtype, jnp.float32))
    return ((jnp.matmul(wide.T, wide, precision="highest") - jnp.eye(wide.shape[1], dtype=wide.dtype)) ** 2).sum()


def _root(squares: Array) -> Array:
    """The root, with a gradient of 0 where it is 0."""
    return jnp.sqrt(jnp.where(squares > 0, squares, 1)) * (squares > 0)
