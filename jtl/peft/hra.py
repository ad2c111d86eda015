"""HRA: chains of Householder reflections of the inputs of dense layers."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Float

from jtl.checked import whole
from jtl.peft.attach import Adapter, patterns
from jtl.transform.intercept import Call
from jtl.typing import Key, Params


def hra(rank: int, where: Sequence[str]) -> Adapter:
    """HRA of dense layers: `y = x H_r … H_1 W + b` with the reflections `H_i = I − 2 h_i h_iᵀ / ‖h_i‖²`.

    The chain is orthogonal, so it keeps the angles between the columns of W. It differs from the identity by a matrix
    of rank r, so it costs as much as LoRA. The vectors start as random pairs, `h_1 = h_2` and so on, whose reflections
    cancel: the network starts unchanged if the rank is even. If it is odd, one reflection is left over, and the network
    starts changed.

    Args:
      rank: number of reflections, r.
      where: regexes over module paths, such as `.*/attention/(query|value)`.

    Returns:
      An adapter with the parameter `h`, [in, rank].

    Raises:
      ValueError: for a rank that is no integer of at least 1; at `attach`, for a kernel that is not [in, out].

    Yuan et al., Bridging The Gap between Low-rank and Orthogonal Adaptation via Householder Reflection Adaptation,
    2024, arXiv 2405.17484.

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> net, adapter = jtl.backbones.mlp((8,)), jtl.peft.hra(2, (".*",))
      >>> net, variables = jtl.peft.attach(net, net.init(jax.random.key(1), jnp.ones((2, 6))), adapter,
      ...     jax.random.key(2))
      >>> print(jtl.peft.summary(variables))
      1 adapted modules, 12 adapter parameters, 0.176 of all 68
    """
    where = patterns(where)
    whole(1, rank=rank)

    def init(key: Key, path: str, own: Params) -> Params:
        kernel = own["kernel"]
        if kernel.ndim != 2:
            raise ValueError(f"the kernel of {path!r} is {kernel.shape}; HRA takes dense layers, [in, out]")
        half = jax.random.normal(key, (kernel.shape[0], (rank + 1) // 2), kernel.dtype)
        return {"h": jnp.repeat(half, 2, 1)[:, :rank]}

    def apply(params: Params, run: Callable, x: Any, own: Params, call: Call) -> Any:
        del own, call
        unit, rest = _chain(params["h"])
        return run(x - (x @ unit.astype(x.dtype)) @ rest.astype(x.dtype))

    def merge(params: Params, path: str, own: Params) -> Params:
        del path
        unit, rest = _chain(params["h"])
        return {**own, "kernel": (own["kernel"] - unit @ (rest @ own["kernel"])).astype(own["kernel"].dtype)}

    def unmerge(params: Params, path: str, own: Params) -> Params:
        del path
        unit, rest = _chain(params["h"])  # the inverse of an orthogonal matrix is its transpose
        return {**own, "kernel": (own["kernel"] - rest.T @ (unit.T @ own["kernel"])).astype(own["kernel"].dtype)}

    config = {"peft_type": "HRA", "r": rank, "apply_GS": False, "init_weights": True, "bias": "none"}
    return Adapter(where, init, apply, merge, config, unmerge=unmerge)


def _chain(h: Float[Array | np.ndarray, "width rank"]) -> tuple[Array, Array]:
    """U and V with `H_r … H_1 = I − U V`: U holds unit vectors, and `V = S⁻ᵀ Uᵀ` with S upper triangular.

    S has 1/2 on its diagonal and above it the inner products of U's columns (the compact WY form of a chain).
    """
    h = jnp.asarray(h)
    h = h.astype(jnp.promote_types(h.dtype, jnp.float32))  # a solver has no 16 bits
    squares = (h**2).sum(0)
    unit = h * jax.lax.rsqrt(jnp.where(squares > 0, squares, 1))[None]  # a vector of zeros reflects nothing
    upper = jnp.triu(jnp.matmul(unit.T, unit, precision="highest"), 1) + jnp.eye(h.shape[1], dtype=h.dtype) / 2
    return unit, solve_triangular(upper, unit.T, trans="T")
