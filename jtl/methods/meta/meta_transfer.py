"""Meta-transfer learning: scale and shift a frozen pre-trained network, and adapt its classifier alone."""

import re
from typing import Any

import jax
import jax.numpy as jnp

from jtl.methods.meta.warp import matched_outputs
from jtl.model import ADAPTER, Model, Variables
from jtl.params import flatten, merge, unflatten
from jtl.transform.intercept import Call, on_outputs
from jtl.typing import Key, Output, Stats


def scaled_and_shifted(model: Model, pattern: str) -> Model:
    """The model whose kernels are `W ⊙ s` and whose outputs there are shifted by δ, s from 1 and δ from 0.

    s has a value for each pair of input and output channels, so that a 3x3 kernel has one for nine weights; δ one for
    each output channel. Meta-transfer learning freezes what was pre-trained, learns these in the outer loop,
    `trainable=select("backbone/adapter/.*", "head/.*")`, and adapts `select("head/.*")` in the inner one. BatchNorm
    normalises by the batch, in training and in tests; by what was pre-trained with `finetune(net, frozen_stats=True)`.

    Args:
      model: of `from_linen`, a backbone; its chosen modules have a `kernel` and add no more than a bias to its product.
      pattern: of whole module paths, as `stage./conv`; where parameters are `stage1/conv/kernel`.

    Returns:
      A model with the parameters `adapter/<module path>/scale` [in, out] and `shift` [out].

    Raises:
      ValueError: at init or when called, where the pattern matches no module, or one without a kernel.

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> body = jtl.learners.scaled_and_shifted(jtl.backbones.conv4(8), "stage./conv")
      >>> own = jtl.flatten(body.init(jax.random.key(0), jnp.zeros((2, 16, 16, 3))).params["adapter"])
      >>> own["stage1/conv/scale"].shape, own["stage1/conv/shift"].shape
      ((3, 8), (8,))

    Sun et al., Meta-Transfer Learning for Few-Shot Learning, 2018, arXiv 1812.02391.
    """
    chosen = re.compile(pattern)

    def shift(y: Any, call: Call) -> Any:
        own = flatten(call.variables.params[ADAPTER])[f"{call.path}/shift"].astype(y.dtype)
        return y + jnp.broadcast_to(own, y.shape)

    shifted = on_outputs(model, pattern, shift, f"the pattern {pattern!r} matches no module")

    def apply(variables: Variables, x: Any, *, train: bool, key: Key | None = None) -> tuple[Output, Stats]:
        flat, own = flatten(variables.params), flatten(variables.params[ADAPTER])
        for path, scale in own.items():
            if path.endswith("/scale") and chosen.fullmatch(name := path.removesuffix("/scale")):
                kernel = flat[f"{name}/kernel"]
                flat[f"{name}/kernel"] = kernel * jnp.broadcast_to(scale.astype(kernel.dtype), kernel.shape)
        return shifted.apply(Variables(unflatten(flat), variables.stats), x, train=train, key=key)

    def init(key: Key, x: Any) -> Variables:
        made = model.init(key, x)
        flat, own = flatten(made.params), {}
        for name in matched_outputs(model, pattern, made, x):
            kernel = flat.get(f"{name}/kernel")
            if kernel is None or kernel.ndim < 2:
                raise ValueError(f"the module {name!r} has no kernel to scale; it has {sorted(_under(flat, name))}")
            own |= {f"{name}/scale": jnp.ones(kernel.shape[-2:]), f"{name}/shift": jnp.zeros(kernel.shape[-1])}
        return Variables(merge(made.params, {ADAPTER: unflatten(own)}), made.stats)

    return Model(init, apply, model.reads)


def _under(flat: dict[str, jax.Array], name: str) -> list[str]:
    return [path for path in flat if path.startswith(f"{name}/")]
