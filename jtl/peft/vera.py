"""VeRA: learned scales around random matrices that all modules share."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jtl.peft.attach import Adapter, patterns
from jtl.transform.intercept import Call
from jtl.typing import Key, Params


class Projections(NamedTuple):
    """The two matrices that all modules of VeRA share; a module uses the first rows of A and columns of B.

    Args:
      a: A, [widest input, rank].
      b: B, [rank, widest output].
    """

    a: Float[Any, "inputs rank"]
    b: Float[Any, "rank outputs"]


def projections(key: Key, rank: int, inputs: int, outputs: int) -> Projections:
    """Random matrices for `vera`, uniform in ±√(6 / fan-in), as PEFT draws them.

    Args:
      key: the same key makes the same matrices, so a run is resumed with it.
      rank: rank of the update; VeRA uses hundreds, because each costs only one scale.
      inputs: width of the widest input of an adapted module.
      outputs: width of the widest output.

    Raises:
      ValueError: for a size below 1.

    Example:
      >>> import jax, jtl
      >>> jtl.peft.projections(jax.random.key(0), 4, 8, 16).b.shape
      (4, 16)

    Kopiczko et al., VeRA: Vector-based Random Matrix Adaptation, 2023, arXiv 2310.11454.
    """
    if min(rank, inputs, outputs) < 1:
        raise ValueError(f"rank={rank}, inputs={inputs}, outputs={outputs}: give at least 1 of each")

    def draw(key: Key, shape: tuple[int, int]) -> Array:
        limit = (6 / shape[0]) ** 0.5
        return jax.random.uniform(key, shape, minval=-limit, maxval=limit)

    first, second = jax.random.split(key)
    return Projections(draw(first, (inputs, rank)), draw(second, (rank, outputs)))


_NONE: Mapping[str, int] = {}


def vera(
    where: Sequence[str], shared: Projections, *, initial: float = 0.1, first: Mapping[str, int] = _NONE
) -> Adapter:
    """VeRA of dense layers: `y = x W + b + ((x A) ⊙ d) B ⊙ l`, where d [rank] and l [out] are learned.

    A and B are random, constant and the same at every module: not parameters, but part of the adapter. l starts at 0,
    so the network starts unchanged.

    Args:
      where: regexes over module paths, such as `.*/attention/(query|value)`.
      shared: A and B, from `projections`.
      initial: initial value of d.
      first: by path, the column of B at which a module's columns begin; 0 for other modules. A fused layer of PEFT,
        such as GPT-2's `c_attn`, is three modules with consecutive columns.

    Returns:
      An adapter with the parameters `d` and `l`.

    Raises:
      ValueError: for an initial value of 0, with which nothing would be learned, and matrices of different ranks; at
        `attach`, for a kernel that is not [in, out], or larger than A and B.

    Kopiczko et al., VeRA: Vector-based Random Matrix Adaptation, 2023, arXiv 2310.11454.

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> net = jtl.backbones.mlp((8, 4))
      >>> adapter = jtl.peft.vera((".*",), jtl.peft.projections(jax.random.key(0), 16, 8, 8))
      >>> net, variables = jtl.peft.attach(net, net.init(jax.random.key(1), jnp.ones((2, 5))), adapter,
      ...     jax.random.key(2))
      >>> print(jtl.peft.summary(variables))
      2 adapted modules, 44 adapter parameters, 0.344 of all 128
    """
    where = patterns(where)
    if initial == 0:
        raise ValueError("initial=0: with d = 0 and l = 0 both gradients are 0; give another start, as 0.1")
    rank = shared.a.shape[1]
    if shared.b.shape[0] != rank:
        raise ValueError(f"shared: A is {shared.a.shape} and B {shared.b.shape}; A's columns are as many as B's rows")

    def init(key: Key, path: str, own: Params) -> Params:
        del key
        kernel = own["kernel"]
        most = (shared.a.shape[0], shared.b.shape[1] - first.get(path, 0))
        if kernel.ndim != 2 or kernel.shape[0] > most[0] or kernel.shape[1] > most[1]:
            raise ValueError(f"the kernel of {path!r} is {kernel.shape}; VeRA takes [in, out] of at most {most} here")
        return {"d": jnp.full(rank, initial, kernel.dtype), "l": jnp.zeros(kernel.shape[1], kernel.dtype)}

    def apply(params: Params, run: Callable, x: Any, own: Params, call: Call) -> Any:
        del own
        y = run(x)
        d, scale = params["d"].astype(y.dtype), params["l"].astype(y.dtype)
        a, b = _taken(shared, x.shape[-1], y.shape[-1], y.dtype, first.get(call.path, 0))
        lead = (1,) * (y.ndim - 1)
        return y + ((x @ a) * d.reshape(*lead, -1)) @ b * scale.reshape(*lead, -1)

    def update(params: Params, path: str, kernel: Any) -> Any:
        a, b = _taken(shared, kernel.shape[0], kernel.shape[1], kernel.dtype, first.get(path, 0))
        return (a * params["d"][None]) @ b * params["l"][None]

    def merge(params: Params, path: str, own: Params) -> Params:
        kernel = own["kernel"]
        return {**own, "kernel": (kernel + update(params, path, kernel)).astype(kernel.dtype)}

    def unmerge(params: Params, path: str, own: Params) -> Params:
        kernel = own["kernel"]
        return {**own, "kernel": (kernel - update(params, path, kernel)).astype(kernel.dtype)}

    config = {"peft_type": "VERA", "r": rank, "d_initial": initial, "bias": "none", "save_projection": True}
    config["first"] = dict(first)
    return Adapter(where, init, apply, merge, config, shared=dict(shared._asdict()), unmerge=unmerge)


def _taken(shared: Projections, inputs: int, outputs: int, dtype: Any, first: int) -> tuple[Array, Array]:
    return jnp.asarray(shared.a[:inputs], dtype), jnp.asarray(shared.b[:, first : first + outputs], dtype)
