"""LoHa: the Hadamard product of two low-rank updates."""

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import jax
import jax.numpy as jnp

from jtl.peft.additive import additive, ranked, uniform
from jtl.peft.attach import Adapter
from jtl.typing import Key, Params


def loha(
    rank: int,
    where: Sequence[str],
    *,
    alpha: float | None = None,
    tucker: bool = False,
    ranks: Mapping[str, int] | None = None,
    alphas: Mapping[str, float] | None = None,
) -> Adapter:
    """LoHa of dense layers: `y = x W + b + s x ((A1 B1) ⊙ (A2 B2))`, A [in, rank], B [rank, out], `s = alpha / rank`.

    ⊙ is the elementwise product, so the update has a rank of up to rank² with twice the parameters of LoRA. A2 starts
    at 0, so the network starts unchanged; A1 starts uniform in ±1/√in, and B1 and B2 in ±1/√rank. A convolution has A
    [height, width, in, rank], whose input width is height · width · in.

    Args:
      rank: rank of each of the two products.
      where: regexes over module paths, such as `.*/attention/(query|value)`.
      alpha: the scale's numerator; None for the rank, that is a scale of 1.
      tucker: whether a convolution larger than 1 by 1 uses Tucker's decomposition instead of each A B: a core T
        [height, width, rank, rank] between A [in, rank] and B [rank, out] (Proposition 3 of FedPara; PEFT's
        `use_effective_conv2d`). T starts uniform in ±1/√(rank height width), and B1 and B2 in ±1/√out.
      ranks: other ranks, by regex over whole module paths, of which the first match counts: the `rank_pattern` of a
        PEFT file.
      alphas: other alphas likewise: the `alpha_pattern` of a PEFT file.

    Returns:
      An adapter with the parameters `a1`, `b1`, `a2` and `b2`, and `t1` and `t2` if there is a core.

    Raises:
      ValueError: for a rank that is not an integer of at least 1, or an alpha that is not positive and finite; at
        `attach`, for a pattern of `ranks` or `alphas` that matches no adapted module, or a kernel that is neither [in,
        out] nor [height, width, in, out].

    Hyeon-Woo et al., FedPara: Low-Rank Hadamard Product for Communication-Efficient Federated Learning, 2021, arXiv
    2108.06098. Yeh et al., Navigating Text-To-Image Customization: From LyCORIS Fine-Tuning to Model Evaluation, 2023,
    arXiv 2309.14859.

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> net, adapter = jtl.backbones.mlp((8,)), jtl.peft.loha(2, (".*",))
      >>> net, variables = jtl.peft.attach(net, net.init(jax.random.key(1), jnp.ones((2, 6))), adapter,
      ...     jax.random.key(2))
      >>> print(jtl.peft.summary(variables))
      1 adapted modules, 56 adapter parameters, 0.500 of all 112
    """
    config = ranked("LOHA", rank, alpha, ranks, alphas) | {"use_effective_conv2d": tucker}

    def init(key: Key, shape: tuple[int, ...], rank: int) -> dict[str, Any]:
        sides, (inputs, outputs) = shape[:-2], shape[-2:]
        core = tucker and prod(sides) > 1
        keys = jax.random.split(key, 5)
        inner, fan_in = ((inputs,), inputs) if core else (shape[:-1], prod(shape[:-1]))
        made = {
            "a1": uniform(keys[0], (*inner, rank), fan_in),
            "b1": uniform(keys[1], (rank, outputs), outputs if core else rank),
            "a2": jnp.zeros((*inner, rank)),
            "b2": uniform(keys[2], (rank, outputs), outputs if core else rank),
        }
        if core:
            made |= {f"t{i}": uniform(keys[2 + i], (*sides, rank, rank), rank * prod(sides)) for i in (1, 2)}
        return made

    def update(params: Params, shape: tuple[int, ...]) -> Any:
        del shape
        return _factor(params, 1) * _factor(params, 2)

    def product(params: Params, x: Any) -> Any:
        return x @ (_factor(params, 1) * _factor(params, 2)).astype(x.dtype)

    return additive(where, config, init, update, product)


def _factor(params: Params, i: int) -> Any:
    a, b = params[f"a{i}"], params[f"b{i}"]
    if f"t{i}" not in params:
        return a @ b
    return jnp.einsum("ci,yxij,jo->yxco", a, params[f"t{i}"], b)
