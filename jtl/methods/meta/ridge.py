"""Ridge regression as the head of a task, in a closed form that is differentiated through."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jtl.methods.meta import checked
from jtl.methods.meta.inner_loop import RULE, Adapt, start_of, with_numbers
from jtl.methods.meta.prototypes import head_of, linear_layer, present, read_support
from jtl.model import Model
from jtl.objective import init_of
from jtl.typing import Batch, Key, Params, Stats


def ridge(net: Model, *, strength: float = 1.0, scale: float = 1.0, train: bool = True) -> Adapt:
    """R2D2: logits `α z W + β` with `W = argmin ‖√w (Z W − Y)‖² + λ ‖W‖²`, Z the support features, Y one-hot labels.

    `W = Zᵀ (Z Zᵀ + λ I)⁻¹ Y` if there are fewer examples than features, else `(Zᵀ Z + λ I)⁻¹ Zᵀ Y`. λ, α and β are
    learned by the outer loop, λ and α through their logarithms; they are stored under `rule/`. A class without support
    has the bias −∞ and thus probability 0.

    Args:
      net: `jtl.network(backbone=..., head=jtl.heads.linear(way))`; its head becomes `α W` and β.
      strength: initial value of λ; positive.
      scale: initial value of α; positive.
      train: as in `prototypes`.

    Returns:
      An `Adapt` with the parameters `rule/log_strength`, `rule/log_scale`, `rule/bias`.

    Raises:
      ValueError: for numbers that are not positive and finite, and as in `prototypes`.

    Example:
      >>> import jtl
      >>> net = jtl.network(backbone=jtl.backbones.conv4(64, flatten=True), head=jtl.heads.linear(5))
      >>> objective = jtl.meta(jtl.learners.ridge(net), jtl.finetune(net))

    Bertinetto et al., Meta-learning with Differentiable Closed-form Solvers, 2018, arXiv 1805.08136.
    """
    checked.positive(strength=strength, scale=scale)
    head = head_of(net)

    def run(params: Params, stats: Stats, support: Batch, key: Key, step: Any) -> tuple[Params, Stats]:
        del step
        phi, params = params[RULE], start_of(params)
        kernel, bias = linear_layer(params, head)
        z, member, stats = read_support(net, params, stats, support, key, kernel.shape[-1], train=train)
        root = jnp.where(member == 0, 0, jnp.sqrt(jnp.where(member == 0, 1, member)))  # finite derivative at 0
        rows = root.sum(1, keepdims=True) * z
        w = jnp.exp(phi["log_scale"]).astype(z.dtype) * solution(
            rows, root, jnp.exp(phi["log_strength"]).astype(z.dtype)
        )
        bias = jnp.where(present(member), phi["bias"], -jnp.inf).astype(bias.dtype)
        return {**params, head: {"out": {"kernel": w.astype(kernel.dtype), "bias": bias}}}, stats

    numbers = {"log_strength": math.log(strength), "log_scale": math.log(scale), "bias": 0.0}
    return Adapt(run, with_numbers(init_of(net), numbers))


def solution(
    z: Float[Array, "rows features"], y: Float[Array, "rows way"], strength: Float[Array, ""]
) -> Float[Array, "features way"]:
    """`argmin_W ‖z W − y‖² + λ ‖W‖²`, from the smaller of its two systems of equations.

    Example:
      >>> import jax.numpy as jnp
      >>> from jtl.methods.meta.ridge import solution
      >>> round(float(solution(jnp.array([[2.0]]), jnp.array([[3.0]]), jnp.array(2.0))[0, 0]), 5)
      1.0
    """
    rows, features = z.shape
    if rows < features:
        return z.T @ jax.scipy.linalg.solve(z @ z.T + strength * jnp.eye(rows, dtype=z.dtype), y, assume_a="pos")
    return jax.scipy.linalg.solve(z.T @ z + strength * jnp.eye(features, dtype=z.dtype), z.T @ y, assume_a="pos")
