"""Update rules of an inner loop: pure functions whose parameters the outer loop learns."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jtl.methods.meta import checked
from jtl.typing import Key, Params, Tree


class UpdateRule(NamedTuple):
    """How an inner loop changes parameters.

    Args:
      init: `init(key, params) -> phi`, the rule's own parameters, which are stored under `rule/` next to the model's.
      start: `start(phi, params) -> memory`, at the beginning of a task.
      step: `step(phi, grads, params, memory) -> (params, memory)`, one inner step.
    """

    init: Callable[[Key, Params], Tree]
    start: Callable[[Tree, Params], Any]
    step: Callable[[Tree, Params, Params, Any], tuple[Params, Any]]


def fixed_rate(inner_lr: float) -> UpdateRule:
    """Gradient descent at one fixed learning rate: `θ ← θ − α g`.

    Args:
      inner_lr: α. The original MAML code sums its loss over classes: its .4 for 5 classes is 2.0 on a mean.

    Raises:
      ValueError: for a learning rate that is negative or not finite.

    Example:
      >>> import jtl
      >>> rule = jtl.fixed_rate(0.4)

    Finn et al., Model-Agnostic Meta-Learning, 2017, arXiv 1703.03400.
    """
    checked.rate(inner_lr)

    def step(phi: Tree, grads: Params, params: Params, memory: Any) -> tuple[Params, Any]:
        del phi
        return jax.tree.map(lambda p, g: p - inner_lr * g, params, grads), memory

    return UpdateRule(lambda key, params: {}, lambda phi, params: (), step)


def learned_rate(inner_lr: float = 0.1) -> UpdateRule:
    """Meta-SGD: a learned learning rate for every single parameter, `θ ← θ − α ⊙ g`.

    Args:
      inner_lr: the initial value of every learning rate; 0.1 is reasonable for mean losses.

    Raises:
      ValueError: for a learning rate that is negative or not finite.

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> jtl.learned_rate(0.1).init(jax.random.key(0), {"w": jnp.zeros(2)})["w"].shape
      (2,)

    Li et al., Meta-SGD: Learning to Learn Quickly for Few-Shot Learning, 2017, arXiv 1707.09835.
    """
    checked.rate(inner_lr)

    def init(key: Key, params: Params) -> Tree:
        del key
        return jax.tree.map(lambda p: jnp.full_like(p, inner_lr), params)

    def step(phi: Tree, grads: Params, params: Params, memory: Any) -> tuple[Params, Any]:
        return jax.tree.map(lambda p, g, rate: p - rate * g, params, grads, phi), memory

    return UpdateRule(init, lambda phi, params: (), step)


def from_optax(tx: optax.GradientTransformation) -> UpdateRule:
    """Any optax optimizer as an inner update rule, with its state initialised for each task.

    Adam's `√ν` has no derivative at a gradient of exactly 0, such as a dead ReLU's: for second-order MAML, use
    `eps_root=1e-8`.

    Example:
      >>> import jtl, optax
      >>> rule = jtl.from_optax(optax.adam(1e-2, eps_root=1e-8))
    """

    def step(phi: Tree, grads: Params, params: Params, memory: Any) -> tuple[Params, Any]:
        del phi
        updates, memory = tx.update(grads, memory, params)
        return jax.tree.map(jnp.add, params, updates), memory

    return UpdateRule(lambda key, params: {}, lambda phi, params: tx.init(params), step)
