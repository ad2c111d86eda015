"""LoKr: the Kronecker product of a small matrix and a low-rank one."""

from collections.abc import Mapping, Sequence
from math import isqrt, prod
from typing import Any

import jax
import jax.numpy as jnp

from jtl.checked import whole
from jtl.peft.additive import additive, ranked, uniform
from jtl.peft.attach import Adapter
from jtl.typing import Key, Params


def lokr(
    rank: int,
    where: Sequence[str],
    *,
    alpha: float | None = None,
    factor: int | None = None,
    both: bool = False,
    tucker: bool = False,
    ranks: Mapping[str, int] | None = None,
    alphas: Mapping[str, float] | None = None,
) -> Adapter:
    """LoKr of dense layers: `y = x W + b + s x (W1 ⊗ W2)`, with W1 [in₁, out₁], W2 [in₂, out₂] and `s = alpha / rank`.

    `in = in₁ in₂` and `out = out₁ out₂`. The rank of a Kronecker product is the product of the ranks. If the rank is
    below max(in₂, out₂) / 2, W2 is the product of `w2_a` [in₂, rank] and `w2_b` [rank, out₂]. W1 starts at 0, so the
    network starts unchanged, and W2 uniform in ±1/√in₂ (`w2_b` in ±1/√rank). W1 ⊗ W2 is never formed: x is multiplied
    by W2, then by W1. A convolution has W2 [height, width, in₂, out₂] and is computed once, with the new kernel.

    Args:
      rank: rank of W2, and of W1 if `both`.
      where: regexes over module paths, such as `.*/attention/(query|value)`.
      alpha: the scale's numerator; None for the rank, that is a scale of 1.
      factor: in₁ and out₁ if it divides the width; otherwise they are the largest divisor of the width that exceeds
        neither it nor the width's square root. None for the divisor nearest to the root (PEFT's `decompose_factor`).
      both: whether W1, too, is a product, of `w1_a` [in₁, rank] and `w1_b` [rank, out₁], if the rank is below
        max(in₁, out₁) / 2; `w1_b` starts at 0, and `w1_a` uniform in ±1/√in₁.
      tucker: whether the low-rank W2 of a convolution larger than 1 by 1 is Tucker's decomposition, with a core `t`
        [height, width, rank, rank] between `w2_a` [in₂, rank] and `w2_b` [rank, out₂] (PEFT's `use_effective_conv2d`).
      ranks: other ranks, by regex over whole module paths, of which the first match counts: the `rank_pattern` of a
        PEFT file.
      alphas: other alphas likewise: the `alpha_pattern` of a PEFT file.

    Returns:
      An adapter with the parameters `w1`, or `w1_a` and `w1_b`; and `w2`, or `w2_a` and `w2_b`, and `t` if there is a
      core.

    Raises:
      ValueError: for a rank or factor that is not an integer of at least 1, or an alpha that is not positive and
        finite; at `attach`, for a pattern of `ranks` or `alphas` that matches no adapted module, or a kernel that is
        neither [in, out] nor [height, width, in, out].

    Yeh et al., Navigating Text-To-Image Customization: From LyCORIS Fine-Tuning to Model Evaluation, 2023, arXiv
    2309.14859. Edalati et al., KronA: Parameter Efficient Tuning with Kronecker Adapter, 2022, arXiv 2212.10650.

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> net, adapter = jtl.backbones.mlp((8,)), jtl.peft.lokr(1, (".*",))
      >>> net, variables = jtl.peft.attach(net, net.init(jax.random.key(1), jnp.ones((2, 6))), adapter,
      ...     jax.random.key(2))
      >>> print(jtl.peft.summary(variables))
      1 adapted modules, 11 adapter parameters, 0.164 of all 67
    """
    if factor is not None:
        whole(1, factor=factor)
    config = ranked("LOKR", rank, alpha, ranks, alphas) | {
        "decompose_factor": -1 if factor is None else factor,
        "decompose_both": both,
        "use_effective_conv2d": tucker,
        "rank_dropout_scale": False,
    }

    def init(key: Key, shape: tuple[int, ...], rank: int) -> dict[str, Any]:
        sides = shape[:-2]
        (first_in, second_in), (first_out, second_out) = (divided(width, factor) for width in shape[-2:])
        keys = jax.random.split(key, 4)
        if both and rank < max(first_in, first_out) / 2:
            made = {
                "w1_a": uniform(keys[0], (first_in, rank), first_in),
                "w1_b": jnp.zeros((rank, first_out)),
            }
        else:
            made = {"w1": jnp.zeros((first_in, first_out))}
        if rank >= max(second_in, second_out) / 2:
            full = uniform(keys[1], (*sides, second_in, second_out), second_in * prod(sides))
            return made | {"w2": full}
        core = tucker and prod(sides) > 1
        inner, fan_in = ((second_in,), second_in) if core else ((*sides, second_in), second_in * prod(sides))
        made |= {
            "w2_a": uniform(keys[1], (*inner, rank), fan_in),
            "w2_b": uniform(keys[2], (rank, second_out), second_out if core else rank),
        }
        return made | ({"t": uniform(keys[3], (*sides, rank, rank), rank * prod(sides))} if core else {})

    def update(params: Params, shape: tuple[int, ...]) -> Any:
        if "w2" in params:
            second = params["w2"]
        elif "t" in params:
            second = jnp.einsum("ni,yxij,jk->yxnk", params["w2_a"], params["t"], params["w2_b"])
        else:
            second = params["w2_a"] @ params["w2_b"]
        return jnp.einsum("ml,...nk->...mnlk", _first(params), second).reshape(shape)

    def product(params: Params, x: Any) -> Any:
        w1 = _first(params)
        low = {name: leaf.astype(x.dtype) for name, leaf in params.items()}
        parts = x.reshape(*x.shape[:-1], w1.shape[0], -1)
        y = parts @ low["w2"] if "w2" in low else parts @ low["w2_a"] @ low["w2_b"]
        return jnp.einsum("...mk,ml->...lk", y, w1.astype(x.dtype)).reshape(*x.shape[:-1], -1)

    return additive(where, config, init, update, product)


def divided(width: int, factor: int | None) -> tuple[int, int]:
    """The two numbers whose product is a width: those of W1 and of W2.

    Example:
      >>> from jtl.peft.lokr import divided
      >>> divided(768, None), divided(768, 4), divided(768, 5), divided(7, None)
      ((24, 32), (4, 192), (4, 192), (1, 7))
    """
    if factor is not None and width % factor == 0:
        return factor, width // factor
    most = isqrt(width) if factor is None else min(factor, isqrt(width))
    first = next(number for number in range(most, 0, -1) if width % number == 0)
    return first, width // first


def _first(params: Params) -> Any:
    return params["w1"] if "w1" in params else params["w1_a"] @ params["w1_b"]
