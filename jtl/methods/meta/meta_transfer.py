"""Meta-transfer learning: learns to scale and shift a frozen pre-trained network, and adapts only its classifier."""

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
    """The model whose chosen modules have kernels `W ⊙ s` and outputs shifted by δ; s starts at 1 and δ at 0.

    s has one value per pair of input and output channels, so a 3x3 kernel has one value for nine weights; δ has one per
    output channel. Meta-transfer learning freezes the pre-trained parameters, learns s and δ in the outer loop,
    `trainable=select("backbone/adapter/.*", "head/.*")`, and adapts `select("head/.*")` in the inner loop. BatchNorm
    normalises by the batch, in training and in testing; with `finetune(net, frozen_stats=True)` it normalises by the
    pre-trained statistics.

    Args:
      model: a backbone from `from_linen`; each chosen module has a `kernel` and adds at most a bias to its product.
      pattern: a regular expression for whole module paths, such as `stage./conv` for the parameters
        `stage1/conv/kernel`.

    Returns:
      A model with the parameters `adapter/<module path>/scale` [in, out] and `shift` [out].

    Raises:
      ValueError: at init or when called, if the pattern matches no module, or one without a kernel.

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
