"""MetaOptNet: a multi-class support vector machine as the head of a task, differentiated by its optimality."""

import math
from typing import Any

import jax.numpy as jnp

from jtl.methods.meta import checked
from jtl.methods.meta.inner_loop import RULE, Adapt, start_of, with_numbers
from jtl.methods.meta.prototypes import head_of, linear_layer, present, read_support
from jtl.methods.meta.support_vectors import STEPS, support_vectors
from jtl.model import Model
from jtl.objective import init_of
from jtl.typing import Batch, Key, Params, Stats


def svm(net: Model, *, cost: float = 0.1, scale: float = 1.0, steps: int = STEPS, train: bool = True) -> Adapt:
    """MetaOptNet-SVM: logits `α z W`, W of the machine of Crammer and Singer on the support features.

    `W = argmin ½ ‖W‖² + C Σ_i w_i max_k (1 − [k = y_i] + w_k·z_i − w_{y_i}·z_i)`, w_i the weight of a row. α is learned
    by the outer loop, through its logarithm. The gradient by the features is that of the solution; it has no second
    derivative. A class without support has the bias −∞ and thus probability 0. The authors' code adds 1 to the diagonal
    of the dual problem's matrix, for its solver, which shrinks W where features are short; this one does not need it.

    Args:
      net: `jtl.network(backbone=..., head=jtl.heads.linear(way))`; its head becomes `α W`, with the bias 0.
      cost: C; positive.
      scale: initial value of α; positive.
      steps: number of steps of the solver. It does not say whether they were enough: with more examples than features,
        raise it until the accuracy stays the same.
      train: as in `prototypes`.

    Returns:
      An `Adapt` with the parameter `rule/log_scale`.

    Raises:
      ValueError: for numbers that are not positive and finite, steps that are not an integer of at least 1, and as in
        `prototypes`.

    Example:
      >>> import jtl
      >>> net = jtl.network(backbone=jtl.backbones.conv4(64, flatten=True), head=jtl.heads.linear(5))
      >>> objective = jtl.meta(jtl.learners.svm(net), jtl.finetune(net))

    Lee et al., Meta-Learning with Differentiable Convex Optimization, 2019, arXiv 1904.03758.
    """
    checked.positive(cost=cost, scale=scale)
    checked.whole(1, steps=steps)
    head = head_of(net)

    def run(params: Params, stats: Stats, support: Batch, key: Key, step: Any) -> tuple[Params, Stats]:
        del step
        phi, params = params[RULE], start_of(params)
        kernel, bias = linear_layer(params, head)
        z, member, stats = read_support(net, params, stats, support, key, kernel.shape[-1], train=train)
        there = present(member)
        weight = member.sum(1)
        y = jnp.where(member > 0, 1, 0 * member)  # NaN stays
        w = jnp.exp(phi["log_scale"]).astype(z.dtype) * support_vectors(z, y, cost * weight, there, steps)
        bias = jnp.where(there, 0, -jnp.inf).astype(bias.dtype)
        return {**params, head: {"out": {"kernel": w.astype(kernel.dtype), "bias": bias}}}, stats

    return Adapt(run, with_numbers(init_of(net), {"log_scale": math.log(scale)}))
