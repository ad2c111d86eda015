"""Bottleneck adapters: a small MLP after a module, or parallel to it."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jtl.peft.attach import Adapter, patterns
from jtl.transform.intercept import Call
from jtl.typing import Key, Params


def bottleneck(
    where: Sequence[str],
    width: int,
    inner: int,
    *,
    parallel: bool = False,
    scale: float = 1.0,
    activation: Callable[[Any], Any] = jax.nn.relu,
) -> Adapter:
    """An MLP `g(h) = s (φ(h D + c) U + e)` after modules `y = f(x)`, as `y + g(y)`, or parallel to them, as `y + g(x)`.

    Houlsby's adapters come after both branches of a transformer block, `.*/(attention|mlp)`, Pfeiffer's after the
    second one, `.*/mlp`. AdaptFormer is `parallel` to the second one with `scale=0.1`. U and e start at 0, so the
    network starts unchanged.

    Args:
      where: regexes over module paths; modules without a kernel of their own, such as `.*/mlp`, are matched too.
      width: width of the last axis of these modules' outputs (and inputs, if `parallel`), such as a transformer's
        hidden size.
      inner: width between D and U.
      parallel: whether g is applied to the module's input, not its output.
      scale: s.
      activation: φ.

    Returns:
      An adapter with the parameters `reduce_kernel`, `reduce_bias`, `expand_kernel`, `expand_bias`. It cannot be
      merged, because it is not linear.

    Raises:
      ValueError: for a width or an inner width below 1, and a scale of 0; when called, if the width is not that of the
        module; at `merge`.

    Houlsby et al., Parameter-Efficient Transfer Learning for NLP, 2019, arXiv 1902.00751. Pfeiffer et al.,
    AdapterFusion, 2020, arXiv 2005.00247. Chen et al., AdaptFormer: Adapting Vision Transformers for Scalable Visual
    Recognition, 2022, arXiv 2205.13535.

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> net, adapter = jtl.backbones.mlp((8,)), jtl.peft.bottleneck(("stage1",), width=8, inner=2)
      >>> net, variables = jtl.peft.attach(net, net.init(jax.random.key(1), jnp.ones((2, 6))), adapter,
      ...     jax.random.key(2))
      >>> print(jtl.peft.summary(variables))
      1 adapted modules, 42 adapter parameters, 0.429 of all 98
    """
    where = patterns(where)
    if width < 1 or inner < 1:
        raise ValueError(f"width={width}, inner={inner}: give at least 1")
    if scale == 0:
        raise ValueError("scale=0: the adapter would have no effect and learn nothing")

    def init(key: Key, path: str, own: Params) -> Params:
        del path
        dtype = jnp.result_type(jax.tree.leaves(own)[0])
        limit = width**-0.5
        return {
            "reduce_kernel": jax.random.uniform(key, (width, inner), dtype, -limit, limit),
            "reduce_bias": jnp.zeros(inner, dtype),
            "expand_kernel": jnp.zeros((inner, width), dtype),
            "expand_bias": jnp.zeros(width, dtype),
        }

    def apply(params: Params, run: Callable, x: Any, own: Params, call: Call) -> Any:
        del own
        y = run(x)
        given = x if parallel else y
        for what, array in (("gives", y), ("is given", given)):
            shape = getattr(array, "shape", None)
            if not shape or shape[-1] != width:
                raise ValueError(
                    f"the module {call.path!r} {what} {shape or type(array).__name__}; width={width} is not its last"
                )

        def part(name: str) -> Any:
            leaf = params[name].astype(y.dtype)
            return leaf if leaf.ndim == 2 else leaf.reshape((1,) * (y.ndim - 1) + (-1,))

        hidden = activation(given @ part("reduce_kernel") + part("reduce_bias"))
        return y + scale * (hidden @ part("expand_kernel") + part("expand_bias"))

    def merge(params: Params, path: str, own: Params) -> Params:
        del params, own
        raise ValueError(f"the adapter of {path!r} is a perceptron, which no module's own parameters can compute")

    return Adapter(where, init, apply, merge, takes=lambda own: True)
