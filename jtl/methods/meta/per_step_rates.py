"""An update rule with a learned learning rate for each tensor and each inner step."""

from typing import Any

import jax
import jax.numpy as jnp

from jtl.methods.meta import checked
from jtl.methods.meta.update_rules import UpdateRule
from jtl.typing import Key, Params, Tree


def per_step_rates(inner_lr: float, *, steps: int) -> UpdateRule:
    """Learned learning rates per tensor l and inner step k: `θ_l ← θ_l − α_{l,k} g_l`.

    A learning rate may become negative: as in the paper's code, nothing constrains it. Steps beyond `steps` use the
    last rate again, so that the inner loop may be longer at test time.

    Args:
      inner_lr: the initial value of every learning rate.
      steps: number of inner steps with their own rates: those of `adapt_to` in training.

    Returns:
      A rule whose parameters are a tree like the one that it adapts, with leaves [steps].

    Raises:
      ValueError: for steps that are not an integer of at least 1, or a learning rate that is negative or not finite.

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> rule = jtl.learners.per_step_rates(0.1, steps=5)
      >>> rule.init(jax.random.key(0), {"w": jnp.zeros((3, 2))})["w"].shape
      (5,)

    Antoniou et al., How to Train Your MAML, 2019, arXiv 1810.09502.
    """
    checked.rate(inner_lr)
    checked.whole(1, steps=steps)

    def init(key: Key, params: Params) -> Tree:
        del key
        return jax.tree.map(lambda p: jnp.full((steps,), inner_lr, jnp.promote_types(p.dtype, jnp.float32)), params)

    def step(phi: Tree, grads: Params, params: Params, memory: Any) -> tuple[Params, Any]:
        at = jnp.minimum(memory, steps - 1)
        return jax.tree.map(lambda p, g, rates: p - rates[at].astype(p.dtype) * g, params, grads, phi), memory + 1

    return UpdateRule(init, lambda phi, params: jnp.zeros((), jnp.int32), step)
