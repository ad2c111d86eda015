"""PiSSA in PEFT's files: LoRA of twice the rank beside the base as it was."""

import jax
import jax.numpy as jnp
import numpy as np

from jtl.model import Variables
from jtl.params import flatten, unflatten
from jtl.peft.attach import Adapter, below, matched, wide
from jtl.peft.file_writing import unquantised
from jtl.pretrained.load import Pretrained


def beside_the_pretrained(adapter: Adapter, pretrained: Pretrained, variables: Variables) -> Variables:
    """The variables of the same network with the pretrained kernels: `W + s (A B − A₀ B₀) = W + s [A A₀] [B; −B₀]`.

    A₀ and B₀, the first values, are computed again from the pretrained kernels. A quantised kernel stands for what they
    left of those.

    Args:
      adapter: with a start that was taken out of the base.
      pretrained: the network without adapters.
      variables: of the network with adapters.

    Raises:
      ValueError: where a kernel is not what the start left of the pretrained one, because the rest of the difference
        would be lost.
    """
    before, rest = pretrained.variables.params["backbone"], adapter.rest
    given, flat = (flatten(v.params["backbone"]) for v in (variables, unquantised(pretrained, variables)))
    for path in matched(before, adapter.where, adapter.takes):
        own, at = below(before, path), f"adapter/{path}"
        first = adapter.init(jax.random.key(0), path, jax.tree.map(wide, own))
        left = own if rest is None else rest(first, path, own)
        if f"{path}/kernel" in given:
            _check(np.asarray(given[f"{path}/kernel"]), np.asarray(left["kernel"]), np.asarray(own["kernel"]), path)
        flat[f"{path}/kernel"] = own["kernel"]
        flat[f"{at}/a"] = np.concatenate([np.asarray(flat[f"{at}/a"]), np.asarray(first["a"])], -1)
        flat[f"{at}/b"] = np.concatenate([np.asarray(flat[f"{at}/b"]), -np.asarray(first["b"])])
    return variables._replace(params={**variables.params, "backbone": unflatten(flat)})


def _check(found: np.ndarray, left: np.ndarray, kernel: np.ndarray, path: str) -> None:
    """Refuses another kernel, up to the rounding of a singular value decomposition and of the kernel's dtype."""
    close = 1e-5 if jnp.finfo(kernel.dtype).bits >= 32 else 5e-4
    found, left, kernel = (part.astype(np.float64) for part in (found, left, kernel))
    if found.shape != left.shape or not np.linalg.norm(found - left) <= close * np.linalg.norm(kernel):
        raise ValueError(
            f"the kernel of {path!r} is not what PiSSA's start leaves of the pretrained one, and PEFT's files hold"
            " adapters and a head alone: save all by jtl.save(folder, pretrained, jtl.peft.merge(variables, adapter)),"
            " or with jtl.Checkpoints"
        )
