"""IA3: learned scales of activations."""

import re
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp

from jtl.peft.attach import Adapter, not_zero, patterns
from jtl.transform.intercept import Call
from jtl.typing import Key, Params


def ia3(outputs: Sequence[str], inputs: Sequence[str] = ()) -> Adapter:
    """(IA)³: `y = l ⊙ (x W + b)` for keys and values, `y = (l ⊙ x) W + b` after an activation.

    l starts at 1, so the network starts unchanged. In a convolution each channel has its l.

    Args:
      outputs: regexes over paths of modules whose outputs are scaled, such as `.*/attention/(key|value)`.
      inputs: regexes over paths of modules whose inputs are scaled, such as `.*/mlp/down`.

    Returns:
      An adapter with the parameter `scale`.

    Raises:
      ValueError: for a string in place of a sequence; at `attach`, for a kernel that is neither [in, out] nor [height,
        width, in, out], and for a module that both arguments match; when called, for a grouped convolution whose input
        is to be scaled, and for a convolution whose kernel is standardised.

    Liu et al., Few-Shot Parameter-Efficient Fine-Tuning is Better and Cheaper than In-Context Learning, 2022, arXiv
    2205.05638.

    Example:
      >>> import jtl
      >>> jtl.peft.ia3((".*/attention/(key|value)",), inputs=(".*/mlp/down",)).where
      ('.*/attention/(key|value)', '.*/mlp/down')
    """
    outputs, inputs = patterns(outputs, "outputs"), patterns(inputs, "inputs")

    def before(path: str) -> bool:
        return any(re.fullmatch(pattern, path) for pattern in inputs)

    def init(key: Key, path: str, own: Params) -> Params:
        del key
        kernel = own["kernel"]
        if kernel.ndim not in (2, 4):
            raise ValueError(
                f"the kernel of {path!r} is {kernel.shape}; IA3 takes dense layers, [in, out], and convolutions,"
                " [height, width, in, out]"
            )
        if before(path) and any(re.fullmatch(pattern, path) for pattern in outputs):
            raise ValueError(f"{path!r} is matched by outputs={outputs!r} and by inputs={inputs!r}: let one match it")
        return {"scale": jnp.ones(kernel.shape[-2 if before(path) else -1], kernel.dtype)}

    def apply(params: Params, run: Callable, x: Any, own: Params, call: Call) -> Any:
        if own["kernel"].ndim == 4 and getattr(call.module, "standardise", None):
            raise ValueError(f"the kernel of {call.path!r} is standardised, so IA3's scale could not be merged into it")
        if before(call.path):
            if x.shape[-1] != params["scale"].shape[0]:
                raise ValueError(
                    f"{call.path!r} is a convolution in groups, of {params['scale'].shape[0]} of {x.shape[-1]} channels"
                    " each; IA3 scales the outputs of those: let `outputs` match it"
                )
            return run(_times(x, params["scale"]))
        return _times(run(x), params["scale"])

    def merge(params: Params, path: str, own: Params) -> Params:
        if before(path):
            return {**own, "kernel": own["kernel"] * params["scale"].reshape((1,) * (own["kernel"].ndim - 2) + (-1, 1))}
        return {name: _times(leaf, params["scale"]) for name, leaf in own.items()}

    def unmerge(params: Params, path: str, own: Params) -> Params:
        return merge({"scale": 1 / not_zero(params["scale"], path)}, path, own)

    config = {"peft_type": "IA3", "inputs": inputs}
    return Adapter((*outputs, *inputs), init, apply, merge, config, unmerge=unmerge)


def _times(x: Any, scale: Any) -> Any:
    """Multiplies in the wider of the two dtypes, because in bfloat16 a scale near 1 would be rounded to 1."""
    wide = jnp.promote_types(x.dtype, scale.dtype)
    return (x.astype(wide) * scale.astype(wide).reshape((1,) * (x.ndim - 1) + (-1,))).astype(x.dtype)
