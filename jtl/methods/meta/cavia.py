"""CAVIA: a task is represented by a small context vector, an extra input; only it changes in the inner loop."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from jtl.methods.meta import checked
from jtl.methods.meta.inner_loop import Adapt, adapt_to
from jtl.methods.meta.update_rules import UpdateRule
from jtl.model import Model, Variables
from jtl.objective import Objective
from jtl.params import flatten, select, unflatten
from jtl.typing import Batch, Key, Output, Params, Stats

CONTEXT = "context"
"""The name of the context among a backbone's parameters."""


def with_context(backbone: Model, size: int) -> Model:
    """The backbone with one context vector appended to the input of every row, `[x, c]`, where c starts at 0.

    For images, the context is `size` more input channels, constant over the pixels. The paper's network for images uses
    it differently: a learned layer turns it into a scale and a shift of each channel after a convolution (FiLM).

    Args:
      backbone: a backbone whose input is one array of floats, [batch, ..., channels].
      size: length of the context.

    Raises:
      ValueError: for a size that is not an integer of at least 1, or an input that is not an array of floats.

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> body = jtl.learners.with_context(jtl.backbones.mlp((8,)), 4)
      >>> params = body.init(jax.random.key(0), jnp.zeros((2, 5))).params
      >>> params["context"].shape, params["stage1"]["dense"]["kernel"].shape
      ((4,), (9, 8))

    Zintgraf et al., Fast Context Adaptation via Meta-Learning, 2018, arXiv 1810.03642.
    """
    checked.whole(1, size=size)

    def beside(x: Any, context: Any) -> Any:
        if not hasattr(x, "dtype") or jnp.ndim(x) < 2 or not jnp.issubdtype(x.dtype, jnp.floating):
            raise ValueError(f"a context stands beside one array of floats [batch, ..., channels], not {x!r}")
        rows = jnp.broadcast_to(context.astype(x.dtype), (*x.shape[:-1], size))
        return jnp.concatenate([x, rows], -1)

    def init(key: Key, x: Any) -> Variables:
        made = backbone.init(key, beside(x, jnp.zeros(size)))
        return Variables({**made.params, CONTEXT: jnp.zeros(size)}, made.stats)

    def apply(variables: Variables, x: Any, *, train: bool, key: Key | None = None) -> tuple[Output, Stats]:
        own = {name: value for name, value in variables.params.items() if name != CONTEXT}
        joint = beside(x, variables.params[CONTEXT])
        return backbone.apply(Variables(own, variables.stats), joint, train=train, key=key)

    return Model(init, apply)


def cavia(inner: Objective | Callable, rule: UpdateRule, *, steps: int, order: int = 2) -> Adapt:
    """The inner loop on the context alone: `c_0 = 0, c_k = rule(φ, ∇_c L_support(θ, c_{k−1}), c_{k−1})`.

    Every task starts from a context of 0, whatever value the parameters hold, so the outer loop has no gradient for it.

    Args:
      inner: an objective on a network whose backbone is `with_context(...)`.
      rule: the update rule of the context; the paper's learning rate is 1.0.
      steps: number of inner steps; the paper uses 2.
      order: 2, or 1 to hold inner gradients constant.

    Returns:
      An `Adapt`, for `meta(cavia(...), judge)`.

    Raises:
      ValueError: as in `adapt_to`; at init, for a network without a context.

    Example:
      >>> import jtl
      >>> body = jtl.learners.with_context(jtl.backbones.mlp((40, 40)), 4)
      >>> inner = jtl.finetune(jtl.network(backbone=body, head=jtl.heads.linear(5)))
      >>> objective = jtl.meta(jtl.learners.cavia(inner, jtl.fixed_rate(1.0), steps=2), inner)

    Zintgraf et al., Fast Context Adaptation via Meta-Learning, 2018, arXiv 1810.03642.
    """
    loop = adapt_to(inner, rule, steps=steps, order=order, adapted=select(f"(.*/)?{CONTEXT}"))

    def reset(params: Params) -> Params:
        def zero(path: str, a: Any) -> Any:
            return jnp.zeros_like(a) if path.split("/")[0] != "rule" and path.split("/")[-1] == CONTEXT else a

        return unflatten({path: zero(path, a) for path, a in flatten(params).items()})

    def run(params: Params, stats: Stats, support: Batch, key: Key, step: Any) -> tuple[Params, Stats]:
        return loop(reset(params), stats, support, key, step)

    def each(params: Params, *rest: Any, **options: Any) -> tuple:
        assert loop.each is not None
        return loop.each(reset(params), *rest, **options)

    return Adapt(run, loop.init, each if loop.each is not None else None)
