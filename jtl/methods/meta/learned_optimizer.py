"""A small network as the update rule of an inner loop, shared by all parameters."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jtl.methods.meta import checked
from jtl.methods.meta.update_rules import UpdateRule
from jtl.typing import Key, Params, Tree

SCALES = (1.0, 1e2, 1e4)
"""The network sees arcsinh(s·g): linear near 0 and logarithmic beyond, with a derivative everywhere."""


def learned_optimizer(inner_lr: float, *, width: int = 16, momentum: float = 0.9) -> UpdateRule:
    """`θ_i ← θ_i − α (g_i + f(φ, g_i, m_i))` with a two-layer network f that all parameters i share.

    f reads `arcsinh(s g_i)` and `arcsinh(s m_i)` at scales s of 1, 100 and 10,000, with m the running mean
    `m ← β m + (1 − β) g` of the task's gradients. Its hidden layer is drawn at random and its output layer starts at 0,
    so the rule starts as gradient descent with learning rate α. The paper's f is a recurrent network; here the running
    mean is the memory.

    Args:
      inner_lr: α.
      width: units of the hidden layer; every single adapted parameter needs as many activations in each inner step.
      momentum: β in [0, 1).

    Returns:
      A rule with the parameters `hidden` {kernel [6, width], bias [width]} and `out` [width].

    Raises:
      ValueError: for a learning rate that is not positive and finite, a width that is not an integer of at least 1, or
        a momentum outside [0, 1).

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> rule = jtl.learners.learned_optimizer(0.1)
      >>> sorted(rule.init(jax.random.key(0), {"w": jnp.zeros(2)}))
      ['hidden', 'out']

    Andrychowicz et al., Learning to Learn by Gradient Descent by Gradient Descent, 2016, arXiv 1606.04474.
    """
    checked.positive(inner_lr=inner_lr)
    checked.whole(1, width=width)
    if not 0 <= momentum < 1:
        raise ValueError(f"momentum={momentum}: the share that stays lies in [0, 1)")

    def init(key: Key, params: Params) -> Tree:
        dtype = jnp.result_type(jnp.float32, *jax.tree.leaves(params))
        kernel = jax.nn.initializers.lecun_normal()(key, (2 * len(SCALES), width), dtype)
        return {"hidden": {"kernel": kernel, "bias": jnp.zeros(width, dtype)}, "out": jnp.zeros(width, dtype)}

    def start(phi: Tree, params: Params) -> Any:
        del phi
        return jax.tree.map(jnp.zeros_like, params)

    def step(phi: Tree, grads: Params, params: Params, memory: Any) -> tuple[Params, Any]:
        memory = jax.tree.map(lambda m, g: momentum * m + (1 - momentum) * g, memory, grads)

        def moved(p: Array, g: Array, m: Array) -> Array:
            seen = jnp.stack([jnp.arcsinh(s * a) for a in (g, m) for s in SCALES], -1)
            kernel, bias, out = (a.astype(p.dtype) for a in (*_layer(phi["hidden"]), phi["out"]))
            hidden = jnp.tanh(seen @ kernel + jnp.broadcast_to(bias, (*p.shape, width)))
            return p - inner_lr * (g + hidden @ out)

        return jax.tree.map(moved, params, grads, memory), memory

    return UpdateRule(init, start, step)


def _layer(phi: Tree) -> tuple[Array, Array]:
    return phi["kernel"], phi["bias"]
