"""Adapters that add a full update to a kernel, such as LoHa and LoKr: their ranks, their scale, and how they merge."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jtl.checked import positive, whole
from jtl.peft.attach import Adapter, patterns
from jtl.peft.lora import rank_and_scale
from jtl.transform.intercept import Call
from jtl.typing import Key, Params


def ranked(
    kind: str, rank: int, alpha: float | None, ranks: Mapping[str, int] | None, alphas: Mapping[str, float] | None
) -> dict[str, Any]:
    """The config of an adapter whose update has the scale alpha / rank, as `jtl.peft.lora` reads it.

    Args:
      kind: PEFT's name of the adapter.
      rank: rank of the update.
      alpha: the scale's numerator; None for the rank.
      ranks: other ranks, by regex over module paths.
      alphas: other alphas likewise.

    Raises:
      ValueError: for a rank that is not an integer of at least 1, or an alpha that is not positive and finite.
    """
    ranks, alphas = dict(ranks or {}), dict(alphas or {})
    whole(1, rank=rank, **{f"ranks[{pattern!r}]": value for pattern, value in ranks.items()})
    positive(**({} if alpha is None else {"alpha": alpha}))
    positive(**{f"alphas[{pattern!r}]": value for pattern, value in alphas.items()})
    if alpha is None:
        alphas = {**alphas, **{pattern: value for pattern, value in ranks.items() if pattern not in alphas}}
    return {
        "peft_type": kind,
        "r": rank,
        "lora_alpha": rank if alpha is None else alpha,
        "use_rslora": False,
        "ranks": ranks,
        "alphas": alphas,
        "rank_dropout": 0.0,
        "module_dropout": 0.0,
    }


def additive(
    where: Sequence[str],
    config: Mapping[str, Any],
    init: Callable[[Key, tuple[int, ...], int], dict[str, Any]],
    update: Callable[[Params, tuple[int, ...]], Any],
    product: Callable[[Params, Any], Any],
) -> Adapter:
    """An adapter of dense layers, `y = x W + b + s · product(params, x)`, and of convolutions with `W + s · update`.

    A convolution is computed once, with the new kernel, because a separate convolution would cost as much.

    Args:
      where: regexes over module paths.
      config: the result of `ranked`.
      init: `init(key, shape, rank) -> params` in float32, for a module whose kernel has this shape.
      update: `update(params, shape)`, the unscaled update of a kernel of this shape.
      product: `product(params, x)`, x times the update of a dense layer, in the dtype of x.
    """

    def start(key: Key, path: str, own: Params) -> Params:
        kernel = own["kernel"]
        if kernel.ndim not in (2, 4):
            raise ValueError(
                f"the kernel of {path!r} is {kernel.shape}; {config['peft_type']} takes dense layers, [in, out], and"
                " convolutions, [height, width, in, out]: let `where` match those"
            )
        made = init(key, tuple(kernel.shape), rank_and_scale(config, path)[0])
        return {name: leaf.astype(kernel.dtype) for name, leaf in made.items()}

    def changed(params: Params, path: str, own: Params, sign: int = 1) -> Params:
        kernel, scale = own["kernel"], sign * rank_and_scale(config, path)[1]
        more = scale * update(jax.tree.map(jnp.asarray, params), tuple(kernel.shape))
        return {**own, "kernel": (kernel + more).astype(kernel.dtype)}

    def apply(params: Params, run: Callable, x: Any, own: Params, call: Call) -> Any:
        if own["kernel"].ndim == 4:
            return call.module.clone(parent=None, name=None).apply({"params": changed(params, call.path, own)}, x)
        y = run(x)
        return y + rank_and_scale(config, call.path)[1] * product(params, x.astype(y.dtype))

    return Adapter(
        patterns(where),
        start,
        apply,
        changed,
        config,
        within=(*config["ranks"], *config["alphas"]),
        unmerge=lambda params, path, own: changed(params, path, own, -1),
    )


def uniform(key: Key, shape: Sequence[int], fan_in: int) -> Array:
    """Uniform numbers in ±1/√fan-in: He's initialisation with the slope √5, torch's default for its layers."""
    return jax.random.uniform(key, tuple(shape), minval=-(fan_in**-0.5), maxval=fan_in**-0.5)
