"""WarpGrad: layers inserted into a network that the inner loop passes through and only the outer loop learns."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jtl.model import ADAPTER, Model, Variables
from jtl.params import flatten, merge, unflatten
from jtl.transform.intercept import Call, on_outputs
from jtl.typing import Key


def warped(model: Model, pattern: str) -> Model:
    """The model with a linear map of channels, `y ← y W`, after each module that a regex matches; W starts at I.

    The inner loop does not adapt W, `adapted=select(r"(?!backbone/adapter/).*")`, and the outer loop learns it. W thus
    learns how to transform the gradients of the layers before it. At the start the network is unchanged.

    Args:
      model: a backbone from `from_linen`.
      pattern: a regular expression for whole module paths, such as `stage./conv` for the parameters
        `stage1/conv/kernel`.

    Returns:
      A model with the parameters `adapter/<module path>/warp`, [channels, channels].

    Raises:
      ValueError: at init or when called, if the pattern matches no module.

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> body = jtl.learners.warped(jtl.backbones.mlp((8, 4)), "stage1/dense")
      >>> jtl.flatten(body.init(jax.random.key(0), jnp.zeros((2, 5))).params["adapter"])["stage1/dense/warp"].shape
      (8, 8)

    Flennerhag et al., Meta-Learning with Warped Gradient Descent, 2019, arXiv 1909.00025.
    """

    def warp(y: Any, call: Call) -> Any:
        return y @ flatten(call.variables.params[ADAPTER])[f"{call.path}/warp"].astype(y.dtype)

    def make(path: str, y: Any) -> dict[str, Any]:
        return {f"{path}/warp": jnp.eye(y.shape[-1])}

    return _with_parameters(model, on_outputs(model, pattern, warp, _missing(pattern)), pattern, make)


def matched_outputs(model: Model, pattern: str, variables: Variables, x: Any) -> dict[str, jax.ShapeDtypeStruct]:
    """Shape and dtype of the output of each module whose path a regex matches.

    Raises:
      ValueError: if there is no such module, or if one does not return an array.
    """
    found = {}

    def record(y: Any, call: Call) -> Any:
        if not hasattr(y, "shape"):
            raise ValueError(f"the module {call.path!r} returns a {type(y).__name__}, not an array")
        found[call.path] = jax.ShapeDtypeStruct(y.shape, y.dtype)
        return y

    seen = on_outputs(model, pattern, record, _missing(pattern))
    jax.eval_shape(lambda v, x: seen.apply(v, x, train=False)[0], variables, x)
    return found


def _with_parameters(model: Model, changed: Model, pattern: str, make: Callable[[str, Any], dict[str, Any]]) -> Model:
    """The changed model, whose `init` adds the parameters from `make` for each module that the pattern matches."""

    def init(key: Key, x: Any) -> Variables:
        made = model.init(key, x)
        outputs = matched_outputs(model, pattern, made, x)
        own = {path: leaf for name, y in outputs.items() for path, leaf in make(name, y).items()}
        return Variables(merge(made.params, {ADAPTER: unflatten(own)}), made.stats)

    return changed._replace(init=init)


def _missing(pattern: str) -> str:
    return f"the pattern {pattern!r} matches no module; give paths as parameters have them, without the last name"
