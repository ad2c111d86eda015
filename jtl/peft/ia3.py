"""IA3: learned scales of activations."""

import re
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp

from jtl.peft.attach import Adapter
from jtl.transform.intercept import Call
from jtl.typing import Key, Params


def ia3(outputs: Sequence[str], inputs: Sequence[str] = ()) -> Adapter:
    """(IA)³ of dense layers: `y = l ⊙ (x W + b)` for keys and values, `y = (l ⊙ x) W + b` after an activation.

    l starts at 1, so the network starts as it was.

    Args:
      outputs: regexes over paths of modules whose outputs are scaled, as `.*/attention/(key|value)`.
      inputs: regexes over paths of modules whose inputs are, as `.*/mlp/down`.

    Returns:
      An adapter with the parameter `scale`.

    Raises:
      ValueError: at `attach`, for a kernel that is not [in, out], and for a module that both match.

    Liu et al., Few-Shot Parameter-Efficient Fine-Tuning is Better and Cheaper than In-Context Learning, 2022, arXiv
    2205.05638.

    Example:
      >>> import jtl
      >>> jtl.peft.ia3((".*/attention/(key|value)",), inputs=(".*/mlp/down",)).where
      ('.*/attention/(key|value)', '.*/mlp/down')
    """

    def before(path: str) -> bool:
        return any(re.fullmatch(pattern, path) for pattern in inputs)

    def init(key: Key, path: str, own: Params) -> Params:
        del key
        kernel = own["kernel"]
        if kernel.ndim != 2:
            raise ValueError(f"the kernel of {path!r} is {kernel.shape}; IA3 takes dense layers, [in, out]")
        if before(path) and any(re.fullmatch(pattern, path) for pattern in outputs):
            raise ValueError(f"{path!r} is matched by outputs={outputs!r} and by inputs={inputs!r}: let one match it")
        return {"scale": jnp.ones(kernel.shape[0 if before(path) else 1], kernel.dtype)}

    def apply(params: Params, run: Callable, x: Any, own: Params, call: Call) -> Any:
        del own
        if before(call.path):
            return run(_times(x, params["scale"]))
        return _times(run(x), params["scale"])

    def merge(params: Params, path: str, own: Params) -> Params:
        if before(path):
            return {**own, "kernel": own["kernel"] * params["scale"][:, None]}
        return {name: _times(leaf, params["scale"]) for name, leaf in own.items()}

    return Adapter((*outputs, *inputs), init, apply, merge, {"peft_type": "IA3", "inputs": tuple(inputs)})


def _times(x: Any, scale: Any) -> Any:
    return x * scale.astype(x.dtype).reshape((1,) * (x.ndim - 1) + (-1,))
