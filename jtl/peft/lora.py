"""LoRA, rsLoRA, DoRA, PiSSA and LoRA+: low-rank updates of dense layers and convolutions."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jtl import rng
from jtl.checked import positive, whole, within
from jtl.params import Table
from jtl.peft.attach import Adapter, patterns
from jtl.transform.intercept import Call
from jtl.typing import Key, Params


def lora(
    rank: int,
    where: Sequence[str],
    *,
    alpha: float | None = None,
    rank_stabilised: bool = False,
    dropout: float = 0.0,
    magnitude: bool = False,
    start: Literal["zero", "pissa"] = "zero",
    ranks: Mapping[str, int] | None = None,
    alphas: Mapping[str, float] | None = None,
) -> Adapter:
    """LoRA of dense layers: `y = x W + b + s (x A) B` with A [in, rank] and B [rank, out], `s = alpha / rank`.

    A starts uniform in ±1/√in and B at 0, so the network starts unchanged. The two small products are computed in
    addition to the layer, which costs less than `x (W + s A B)`. A convolution has A [height, width, in, rank] and is
    computed once, with the kernel `W + s A B`, because a separate convolution would cost as much.

    Args:
      rank: rank of the update.
      where: regexes over module paths, such as `.*/attention/(query|value)`.
      alpha: the scale's numerator; None for the rank, that is a scale of 1 (√rank if it is rank-stabilised).
      rank_stabilised: whether `s = alpha / √rank` (rsLoRA), so that gradients do not shrink as the rank grows.
      dropout: probability with which an element of the adapter's x is dropped in training.
      magnitude: whether to use DoRA, `y = x W' + b` with `W' = m (W + s A B) / ‖W + s A B‖`, where the norm is taken
        over each output's column (in a convolution over height, width and in) and is constant for the gradient, and m
        starts as ‖W‖. Dropout applies only to the x of the product with A B.
      start: "zero" as above; "pissa" starts A and B from the `rank` largest singular values of W, `s A B = U S V`, and
        subtracts them from the base: the network starts unchanged, and the directions that matter most are trained. The
        base that `attach` returns is then another one, so `jtl.peft.save` writes the difference from the pretrained
        network, as LoRA of twice the rank, which PEFT reads onto that network.
      ranks: other ranks, by regex over whole module paths, of which the first match counts: the `rank_pattern` of a
        PEFT file.
      alphas: other alphas likewise: the `alpha_pattern` of a PEFT file.

    Returns:
      An adapter with the parameters `a`, `b`, and `m` if `magnitude`.

    Raises:
      ValueError: for a rank that is no integer of at least 1, a dropout outside [0, 1), an alpha that is not positive
        and finite, or an unknown start; at `attach`, for a pattern of `ranks` or `alphas` that matches no adapted
        module, for a kernel that is neither [in, out] nor [height, width, in, out], for a convolution with dropout, and
        for "pissa" with a rank above that of a kernel; when training with dropout without a key.

    Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, 2021, arXiv 2106.09685. Kalajdzievski, A Rank
    Stabilization Scaling Factor for Fine-Tuning with LoRA, 2023, arXiv 2312.03732. Liu et al., DoRA: Weight-Decomposed
    Low-Rank Adaptation, 2024, arXiv 2402.09353. Meng et al., PiSSA: Principal Singular Values and Singular Vectors
    Adaptation of Large Language Models, 2024, arXiv 2404.02948.

    Example:
      >>> import jtl
      >>> jtl.peft.lora(8, (".*/attention/(query|value)",), alpha=16).where
      ('.*/attention/(query|value)',)
    """
    where = patterns(where)
    ranks, alphas = dict(ranks or {}), dict(alphas or {})
    whole(1, rank=rank, **{f"ranks[{pattern!r}]": value for pattern, value in ranks.items()})
    within("[0, 1)", dropout=dropout)
    positive(**({} if alpha is None else {"alpha": alpha}))
    positive(**{f"alphas[{pattern!r}]": value for pattern, value in alphas.items()})
    if start not in ("zero", "pissa"):
        raise ValueError(f"start={start!r}: give 'zero' or 'pissa'")

    if alpha is None:
        alphas = {**alphas, **{pattern: r for pattern, r in ranks.items() if pattern not in alphas}}
    config = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": rank if alpha is None else alpha,
        "lora_dropout": dropout,
        "use_rslora": rank_stabilised,
        "use_dora": magnitude,
        "bias": "none",
        "ranks": ranks,
        "alphas": alphas,
    }

    def init(key: Key, path: str, own: Params) -> Params:
        kernel, rank, scale = own["kernel"], *rank_and_scale(config, path)
        if kernel.ndim not in (2, 4):
            raise ValueError(
                f"the kernel of {path!r} is {kernel.shape}; LoRA takes dense layers, [in, out], and convolutions,"
                " [height, width, in, out]: let `where` match those"
            )
        if kernel.ndim == 4 and dropout:
            raise ValueError(f"{path!r} is a convolution, for which LoRA has no dropout (here {dropout})")
        fan_in, out = kernel.size // kernel.shape[-1], kernel.shape[-1]
        if start == "pissa":
            made = _principal(kernel.reshape(fan_in, out), path, rank, scale)
        else:
            limit = fan_in**-0.5
            a = jax.random.uniform(key, (fan_in, rank), kernel.dtype, -limit, limit)
            made = {"a": a, "b": jnp.zeros((rank, out), kernel.dtype)}
        made["a"] = made["a"].reshape(*kernel.shape[:-1], rank)
        return made | ({"m": _columns(jnp.asarray(kernel))} if magnitude else {})

    def _principal(kernel: Any, path: str, rank: int, scale: float) -> dict[str, Any]:
        if rank > min(kernel.shape):
            raise ValueError(f"rank={rank}: the kernel of {path!r} has {min(kernel.shape)} singular values")
        u, values, v = jnp.linalg.svd(jnp.asarray(kernel, jnp.promote_types(kernel.dtype, jnp.float32)), False)
        root = jnp.sqrt(values[:rank] / scale)
        return {
            "a": (u[:, :rank] * root[None]).astype(kernel.dtype),
            "b": (root[:, None] * v[:rank]).astype(kernel.dtype),
        }

    def rest(params: Params, path: str, own: Params) -> Params:
        kernel, scale = own["kernel"], rank_and_scale(config, path)[1]
        return {**own, "kernel": (kernel - scale * (params["a"] @ params["b"])).astype(kernel.dtype)}

    def apply(params: Params, run: Callable, x: Any, own: Params, call: Call) -> Any:
        scale = rank_and_scale(config, call.path)[1]
        if params["a"].ndim == 4:
            kernel = _updated(params, own, scale)
            if magnitude:
                kernel = kernel * _ratio(params["m"], jax.lax.stop_gradient(kernel))[None, None, None]
            updated = {**own, "kernel": kernel.astype(own["kernel"].dtype)}
            return call.module.clone(parent=None, name=None).apply({"params": updated}, x)
        y, given = run(x), dropped(x, dropout, call, "LoRA")
        update = scale * (given @ params["a"].astype(y.dtype) @ params["b"].astype(y.dtype))
        if not magnitude:
            return y + update
        ratio = _ratio(params["m"], jax.lax.stop_gradient(_updated(params, own, scale)))
        wide = jnp.promote_types(y.dtype, ratio.dtype)  # in bfloat16 a ratio near 1 would be 1
        ratio = ratio.astype(wide).reshape((1,) * (y.ndim - 1) + (-1,))
        bias = own.get("bias")
        bias = 0 if bias is None else bias.astype(wide).reshape(ratio.shape)
        return ((y.astype(wide) - bias + update) * ratio + bias).astype(y.dtype)

    def merge(params: Params, path: str, own: Params) -> Params:
        scale = rank_and_scale(config, path)[1]
        kernel = _updated(params, own, scale)
        if magnitude:
            kernel = kernel * _ratio(params["m"], kernel).reshape((1,) * (kernel.ndim - 1) + (-1,))
        return {**own, "kernel": kernel.astype(own["kernel"].dtype)}

    def unmerge(params: Params, path: str, own: Params) -> Params:
        if magnitude:
            raise ValueError(
                f"DoRA at {path!r} cannot be unmerged: its merge divided by the norms of W + s A B, which the merged"
                " kernel does not hold; use the variables that jtl.peft.merge was given"
            )
        return rest(params, path, own)

    taken = rest if start == "pissa" else None
    return Adapter(where, init, apply, merge, config, rest=taken, within=(*ranks, *alphas), unmerge=unmerge)


def rank_and_scale(config: Mapping[str, Any], path: str) -> tuple[int, float]:
    """The rank of LoRA at a module and the factor of its update, from the adapter's config."""
    rank = first_match(config["ranks"], path, config["r"])
    alpha = first_match(config["alphas"], path, config["lora_alpha"])
    return rank, alpha / (rank**0.5 if config["use_rslora"] else rank)


def lora_plus(ratio: float = 16.0) -> Table:
    """LoRA+: the learning rate of LoRA's B is `η_B = ratio · η`, with η that of all other trained parameters.

    For `jtl.optim.scale`, after an optimizer: `optax.chain(optax.adamw(1e-4), jtl.optim.scale(lora_plus()))`.

    Args:
      ratio: above 1, for instance 16, in the paper, which combines it with a smaller learning rate of A than LoRA's.

    Raises:
      ValueError: for a ratio that is not positive.

    Hayou et al., LoRA+: Efficient Low Rank Adaptation of Large Models, 2024, arXiv 2402.12354.

    Example:
      >>> import jtl
      >>> jtl.peft.lora_plus(8)
      [('(.*/)?adapter/.*/b', 8), ('.*', 1.0)]
    """
    if not ratio > 0:
        raise ValueError(f"ratio={ratio}: give a positive number")
    return [("(.*/)?adapter/.*/b", ratio), (".*", 1.0)]


def _updated(params: Params, own: Params, scale: float) -> Any:
    return own["kernel"] + scale * (params["a"] @ params["b"])


def dropped(x: Any, rate: float, call: Call, kind: str) -> Any:
    """The x of an adapter, with dropout in training.

    Args:
      x: input of the module.
      rate: probability with which an element is dropped.
      call: the call of the module.
      kind: name of the adapter, for errors and for its stream of random numbers.

    Raises:
      ValueError: when training without a key.
    """
    if not (rate and call.train):
        return x
    if call.key is None:
        raise ValueError(f"{kind} at {call.path!r} has dropout={rate}: give apply(..., train=True) a key")
    kept = jax.random.bernoulli(rng.stream(call.key, f"{kind.lower()}/{call.path}"), 1 - rate, x.shape)
    return jnp.where(kept, x / (1 - rate), 0)


def first_match(patterns: Mapping[str, Any], path: str, otherwise: Any) -> Any:
    """The value of the first pattern that matches the whole path."""
    return next((value for pattern, value in patterns.items() if re.fullmatch(pattern, path)), otherwise)


def _ratio(magnitude: Any, kernel: Any) -> Any:
    """The factor of each output; 1 if its kernel is 0 and so has no direction."""
    norms = _columns(kernel)
    return jnp.where(norms > 0, magnitude / jnp.where(norms > 0, norms, 1), 1)


def _columns(kernel: Any) -> Any:
    """The norm of each output's part of the kernel, with a finite gradient where it is 0."""
    squares = (kernel**2).sum(tuple(range(kernel.ndim - 1)))
    return jnp.sqrt(jnp.where(squares > 0, squares, 1)) * (squares > 0)
