"""AdaLoRA: low-rank updates as singular value decompositions, whose ranks a budget is to divide."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jtl.checked import positive, whole, within
from jtl.model import ADAPTER, Variables
from jtl.params import flatten, unflatten
from jtl.peft.attach import Adapter, matched, patterns
from jtl.peft.lora import dropped, first_match
from jtl.transform.intercept import Call
from jtl.typing import Key, Params


def adalora(
    rank: int,
    where: Sequence[str],
    *,
    alpha: float | None = None,
    dropout: float = 0.0,
    ranks: Mapping[str, int] | None = None,
) -> Adapter:
    """AdaLoRA of dense layers and convolutions: `y = x W + b + c ((x U) ⊙ s) V` with `c = alpha / (rank + 1e-5)`.

    U is [in, rank], s [rank] and V [rank, out]; the paper's P, Λ and Q are Vᵀ, diag(s) and Uᵀ. U and V start normal
    with a deviation of 0.02 and s at 0, so the network starts unchanged. The update is a singular value decomposition
    as far as U and V are orthogonal; `jtl.peft.orthogonality` is the term of the loss for that. A 0 in s switches a
    direction off: `jtl.peft.budgeted` chooses which, in all modules together, while the adapter is trained. A
    convolution has U [height, width, in, rank] and is computed once, with the new kernel.

    Args:
      rank: rank of every update at the start; the paper takes 1.5 times the mean rank at the end.
      where: regexes over module paths, such as `.*/attention/(query|value)`.
      alpha: the scale's numerator; None for the rank, that is a scale of 1. As in PEFT, the scale does not depend on
        the ranks that are left.
      dropout: probability with which an element of the adapter's x is dropped in training.
      ranks: lower ranks, by regex over whole module paths, of which the first match counts; those that
        `jtl.peft.pruned` left, or the `rank_pattern` of a PEFT file. A rank may be 0.

    Returns:
      An adapter with the parameters `u`, `s` and `v`.

    Raises:
      ValueError: for a rank that is no integer of at least 1, a dropout outside [0, 1), an alpha that is not positive
        and finite, or a lower rank that is negative or above `rank`; at `attach`, for a pattern of `ranks` that matches
        no adapted module, for a kernel that is neither [in, out] nor [height, width, in, out], and for a convolution
        with dropout; when training with dropout without a key.

    Zhang et al., AdaLoRA: Adaptive Budget Allocation for Parameter-Efficient Fine-Tuning, 2023, arXiv 2303.10512.

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> net, adapter = jtl.backbones.mlp((8, 4)), jtl.peft.adalora(3, (".*",))
      >>> net, variables = jtl.peft.attach(net, net.init(jax.random.key(0), jnp.ones((2, 5))), adapter,
      ...     jax.random.key(1))
      >>> print(jtl.peft.summary(variables))
      2 adapted modules, 81 adapter parameters, 0.491 of all 165
    """
    where, ranks = patterns(where), dict(ranks or {})
    whole(1, rank=rank)
    whole(0, **{f"ranks[{pattern!r}]": value for pattern, value in ranks.items()})
    if more := {pattern: value for pattern, value in ranks.items() if value > rank}:
        raise ValueError(f"ranks={more}: give ranks of at most rank={rank}")
    within("[0, 1)", dropout=dropout)
    positive(**({} if alpha is None else {"alpha": alpha}))
    alpha = rank if alpha is None else alpha
    scale = alpha / (rank + 1e-5)

    def init(key: Key, path: str, own: Params) -> Params:
        kernel, own_rank = own["kernel"], first_match(ranks, path, rank)
        if kernel.ndim not in (2, 4):
            raise ValueError(
                f"the kernel of {path!r} is {kernel.shape}; AdaLoRA takes dense layers, [in, out], and convolutions,"
                " [height, width, in, out]: let `where` match those"
            )
        if kernel.ndim == 4 and dropout:
            raise ValueError(f"{path!r} is a convolution, for which AdaLoRA has no dropout (here {dropout})")
        first, second = jax.random.split(key)
        return {
            "u": 0.02 * jax.random.normal(first, (*kernel.shape[:-1], own_rank), kernel.dtype),
            "s": jnp.zeros(own_rank, kernel.dtype),
            "v": 0.02 * jax.random.normal(second, (own_rank, kernel.shape[-1]), kernel.dtype),
        }

    def changed(params: Params, path: str, own: Params, sign: int = 1) -> Params:
        del path
        u, s, v = (jnp.asarray(params[name]) for name in ("u", "s", "v"))
        update = (u * s.reshape((1,) * (u.ndim - 1) + (-1,))) @ v
        return {**own, "kernel": (own["kernel"] + sign * scale * update).astype(own["kernel"].dtype)}

    def apply(params: Params, run: Callable, x: Any, own: Params, call: Call) -> Any:
        if own["kernel"].ndim == 4:
            return call.module.clone(parent=None, name=None).apply({"params": changed(params, call.path, own)}, x)
        y = run(x)
        u, s, v = (params[name].astype(y.dtype) for name in ("u", "s", "v"))
        given = dropped(x, dropout, call, "AdaLoRA")
        return y + scale * (((given @ u) * s.reshape((1,) * (y.ndim - 1) + (-1,))) @ v)

    config = {
        "peft_type": "ADALORA",
        "init_r": rank,
        "target_r": rank,
        "lora_alpha": alpha,
        "lora_dropout": dropout,
        "bias": "none",
        "total_step": 1,  # PEFT reads no file without it
        "kept": ranks,
    }
    return Adapter(
        where,
        init,
        apply,
        changed,
        config,
        within=tuple(ranks),
        unmerge=lambda params, path, own: changed(params, path, own, -1),
    )


def pruned(variables: Variables, adapter: Adapter) -> tuple[Variables, Adapter]:
    """Removes the directions of AdaLoRA that its budget switched off: those with a 0 in s.

    The network computes the same with fewer parameters, and `jtl.peft.save` writes fewer. It is for the end of a run:
    the directions are gone, and the state of an optimizer no longer fits. A module may be left with rank 0, whose empty
    arrays `jtl.Checkpoints` cannot save, but `jtl.peft.save` can.

    Args:
      variables: variables of a network with the adapter, after `jtl.peft.budgeted` was used; they are not changed. Give
        the last parameters: moving averages (`make_step(ema=)`) are not 0 where a direction was switched off late.
      adapter: the `jtl.peft.adalora(...)` that was attached.

    Returns:
      The variables, and the adapter with these ranks, for `merge`, `unmerge` and `save`. The network stays.

    Raises:
      ValueError: for another adapter, and if s is 0 everywhere, as before training.

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> net, adapter = jtl.backbones.mlp((8,)), jtl.peft.adalora(3, (".*",))
      >>> net, variables = jtl.peft.attach(net, net.init(jax.random.key(0), jnp.ones((2, 5))), adapter,
      ...     jax.random.key(1))
      >>> variables.params["adapter"]["stage1"]["dense"]["s"] = jnp.array([0.5, 0.0, 0.1])
      >>> variables, adapter = jtl.peft.pruned(variables, adapter)
      >>> jtl.flatten(variables.params)["adapter/stage1/dense/u"].shape
      (5, 2)
    """
    config = adapter.config
    if config.get("peft_type") != "ADALORA":
        raise ValueError("pruned takes the jtl.peft.adalora(...) that was attached; other adapters have no such ranks")
    below = "backbone/" if "backbone" in variables.params else ""
    flat, ranks = flatten(variables.params), {}
    base = variables.params["backbone"] if below else variables.params
    for path in matched(base, adapter.where, lambda own: "kernel" in own):  # which may be quantised
        at = f"{below}{ADAPTER}/{path}"
        if f"{at}/s" not in flat:
            raise ValueError(f"the module {path!r} has no AdaLoRA; give the adapter that was attached")
        kept = np.flatnonzero(np.asarray(flat[f"{at}/s"]))
        ranks[re.escape(path)] = len(kept)
        flat |= {f"{at}/u": flat[f"{at}/u"][..., kept], f"{at}/s": flat[f"{at}/s"][kept]}
        flat[f"{at}/v"] = flat[f"{at}/v"][kept]
    if not any(ranks.values()):
        raise ValueError("every singular value is 0, as before training: there is no direction to keep")
    rank, alpha, dropout = (config[name] for name in ("init_r", "lora_alpha", "lora_dropout"))
    small = adalora(rank, adapter.where, alpha=alpha, dropout=dropout, ranks=ranks)
    return variables._replace(params=unflatten(flat)), small
