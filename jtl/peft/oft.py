"""OFT: orthogonal rotations of the inputs of dense layers."""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jtl.peft.attach import Adapter, patterns
from jtl.transform.intercept import Call
from jtl.typing import Key, Params


def oft(where: Sequence[str], block: int, *, terms: int | None = None) -> Adapter:
    """OFT of dense layers: `y = (x R) W + b`, with R block-diagonal and orthogonal, which keeps angles between columns.

    Each block is the Cayley transform `R = (I − Q)(I + Q)⁻¹` of a skew-symmetric Q, whose entries above the diagonal
    are learned. Q starts at 0, so the network starts unchanged.

    Args:
      where: regexes over module paths, such as `.*/attention/(query|value)`.
      block: side of a block; it divides the width of the input.
      terms: number of terms of a series, `I + 2Q + 2Q² + … + 2Qᵗ⁻² + Qᵗ⁻¹`, that replaces the inverse and is nearly
        orthogonal while Q is small. PEFT uses it by default, with 5 terms; it approximates the rotation by −Q.

    Returns:
      An adapter with the parameter `q`, [in / block, block (block − 1) / 2].

    Raises:
      ValueError: for a block below 2, or terms below 4; at `attach`, for a kernel that is not [in, out], and a block
        that does not divide its input.

    Qiu et al., Controlling Text-to-Image Diffusion by Orthogonal Finetuning, 2023, arXiv 2306.07280. Qiu et al.,
    Orthogonal Finetuning Made Scalable, 2025, arXiv 2506.19847 (the inputs' side, and the series).

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> net, adapter = jtl.backbones.mlp((8,)), jtl.peft.oft((".*",), block=3)
      >>> net, variables = jtl.peft.attach(net, net.init(jax.random.key(1), jnp.ones((2, 6))), adapter,
      ...     jax.random.key(2))
      >>> print(jtl.peft.summary(variables))
      1 adapted modules, 6 adapter parameters, 0.097 of all 62
    """
    where = patterns(where)
    if block < 2:
        raise ValueError(f"block={block}: give at least 2; a block of 1 has nothing to rotate")
    if terms is not None and terms < 4:
        raise ValueError(f"terms={terms}: give at least 4, or None for the exact rotation")

    def init(key: Key, path: str, own: Params) -> Params:
        del key
        kernel = own["kernel"]
        if kernel.ndim != 2 or kernel.shape[0] % block:
            raise ValueError(
                f"the kernel of {path!r} is {kernel.shape}; OFT takes [in, out] where block={block} divides in"
            )
        return {"q": jnp.zeros((kernel.shape[0] // block, block * (block - 1) // 2), kernel.dtype)}

    def apply(params: Params, run: Callable, x: Any, own: Params, call: Call) -> Any:
        del own, call
        rotation = _rotation(params["q"], block, terms).astype(x.dtype)
        blocks = x.reshape(*x.shape[:-1], -1, block)
        return run(jnp.einsum("...rk,rkc->...rc", blocks, rotation).reshape(x.shape))

    def merge(params: Params, path: str, own: Params) -> Params:
        del path
        kernel = own["kernel"]
        rows = kernel.reshape(-1, block, kernel.shape[1])
        rotated = jnp.einsum("rkc,rco->rko", _rotation(params["q"], block, terms), rows)
        return {**own, "kernel": rotated.reshape(kernel.shape).astype(kernel.dtype)}

    def unmerge(params: Params, path: str, own: Params) -> Params:
        del path
        kernel = own["kernel"]
        rows = kernel.reshape(-1, block, kernel.shape[1])
        rotation = _rotation(params["q"], block, terms)
        turned = jnp.linalg.solve(rotation, rows.astype(rotation.dtype))
        return {**own, "kernel": turned.reshape(kernel.shape).astype(kernel.dtype)}

    config = {
        "peft_type": "OFT",
        "r": 0,  # PEFT takes either the number of blocks or their size, and 0 for the other
        "oft_block_size": block,
        "bias": "none",
        "module_dropout": 0.0,
        "use_cayley_neumann": terms is not None,
        "num_cayley_neumann_terms": 5 if terms is None else terms,
    }
    return Adapter(where, init, apply, merge, config, unmerge=unmerge)


def _rotation(q: Float[Array | np.ndarray, "blocks entries"], block: int, terms: int | None) -> Array:
    q = jnp.asarray(q)
    q = q.astype(jnp.promote_types(q.dtype, jnp.float32))  # LU has no bfloat16, and a product in 8 bits is no rotation
    upper = jnp.zeros((q.shape[0], block, block), q.dtype)
    rows, columns = jnp.triu_indices(block, 1)
    upper = upper.at[:, rows, columns].set(q)
    skew, one = upper - upper.swapaxes(1, 2), jnp.broadcast_to(jnp.eye(block, dtype=q.dtype), upper.shape)
    if terms is None:  # the two factors commute; I + Q is never singular, because Q's eigenvalues are imaginary
        return jnp.linalg.solve(one + skew, one - skew)
    total, power = one, one
    for _ in range(terms - 2):
        power = power @ skew
        total = total + 2 * power
    return total + power @ skew
