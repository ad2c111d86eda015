"""SSF: a learned scale and shift of a module's output."""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from jtl.peft.attach import Adapter, not_zero, patterns
from jtl.transform.intercept import Call
from jtl.typing import Key, Params


def ssf(where: Sequence[str]) -> Adapter:
    """SSF of dense layers, convolutions and normalisations: `y = γ ⊙ f(x) + β`, one γ and β for each channel.

    γ starts at 1 and β at 0, so the network starts unchanged (the paper draws both with a deviation of 0.02).

    Args:
      where: regexes over paths of modules that have a `kernel` or, like normalisations, a `scale`.

    Returns:
      An adapter with the parameters `gamma` and `beta`. It merges into modules that have a bias.

    Raises:
      ValueError: at `attach`, for a pattern that matches no such module; at `merge`, for a module without a bias, which
        has no place for β.

    Lian et al., Scaling & Shifting Your Features: A New Baseline for Efficient Model Tuning, 2022, arXiv 2210.08823.

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> net, adapter = jtl.backbones.mlp((8,)), jtl.peft.ssf((".*/dense",))
      >>> net, variables = jtl.peft.attach(net, net.init(jax.random.key(1), jnp.ones((2, 6))), adapter,
      ...     jax.random.key(2))
      >>> print(jtl.peft.summary(variables))
      1 adapted modules, 16 adapter parameters, 0.222 of all 72
    """
    where = patterns(where)

    def init(key: Key, path: str, own: Params) -> Params:
        del key, path
        leaf = _weight(own)
        return {"gamma": jnp.ones(leaf.shape[-1], leaf.dtype), "beta": jnp.zeros(leaf.shape[-1], leaf.dtype)}

    def apply(params: Params, run: Callable, x: Any, own: Params, call: Call) -> Any:
        del own, call
        y = run(x)
        wide = jnp.promote_types(y.dtype, params["gamma"].dtype)  # in bfloat16 a γ near 1 would be 1
        gamma, beta = (params[name].astype(wide).reshape((1,) * (y.ndim - 1) + (-1,)) for name in ("gamma", "beta"))
        return (y.astype(wide) * gamma + beta).astype(y.dtype)

    def merge(params: Params, path: str, own: Params) -> Params:
        if "bias" not in own:
            raise ValueError(f"the module {path!r} has no bias, so its adapter's shift cannot be merged into it")
        scaled = {name: leaf * params["gamma"].reshape((1,) * (leaf.ndim - 1) + (-1,)) for name, leaf in own.items()}
        return scaled | {"bias": scaled["bias"] + params["beta"]}

    def unmerge(params: Params, path: str, own: Params) -> Params:
        if "bias" not in own:
            raise ValueError(f"the module {path!r} has no bias, so no shift was merged into it")
        gamma = not_zero(params["gamma"], path)
        before = {**own, "bias": own["bias"] - params["beta"]}
        return {name: leaf / gamma.reshape((1,) * (leaf.ndim - 1) + (-1,)) for name, leaf in before.items()}

    return Adapter(where, init, apply, merge, takes=lambda own: _weight(own) is not None, unmerge=unmerge)


def _weight(own: Params) -> Array | Any:
    """The kernel, or a normalisation's scale; None for any other module."""
    leaf = own.get("kernel", own.get("scale"))
    return leaf if hasattr(leaf, "shape") else None
