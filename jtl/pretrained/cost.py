"""Computes the cost of a network from its shapes alone, without running or compiling it."""

import math
from collections.abc import Iterator
from typing import Any

import jax
from jax.interpreters.partial_eval import dce_jaxpr

from jtl._tracing.eval_shape import shapes
from jtl.model import Model


def parameters(model: Model, example: Any) -> int:
    """Returns the number of parameters.

    Args:
      model: any model.
      example: shapes and types of a batch.
    """
    made = shapes(model.init, jax.random.key(0), example)
    return sum(leaf.size for leaf in jax.tree.leaves(made.params))


def flops(model: Model, example: Any) -> int:
    """Counts floating-point operations, Σ 2 m n k over matrix products and convolutions, in one evaluation.

    All other operations (normalisations, activations, sums) are left out, as is usual, because they are linear in the
    size of the features.

    Args:
      model: a backbone; only what `pooled` needs is counted.
      example: shapes and types of a batch; the cost is of the whole batch.
    """
    made = shapes(model.init, jax.random.key(0), example)

    def run(variables: Any, x: Any) -> Any:
        return model.apply(variables, x, train=False)[0]["pooled"]

    program = jax.make_jaxpr(run)(made, example).jaxpr  # computes every feature, even a language model's logits
    return _of(dce_jaxpr(program, [True] * len(program.outvars))[0])


def _of(program: Any) -> int:
    return sum(_product(step) + sum(times * _of(inner) for times, inner in _inner(step)) for step in program.eqns)


def _product(step: Any) -> int:
    kind = step.primitive.name
    if kind == "dot_general":
        (contracted, _), _ = step.params["dimension_numbers"]
        shape = step.invars[0].aval.shape
        return 2 * math.prod(step.outvars[0].aval.shape) * math.prod(shape[i] for i in contracted)
    if kind == "conv_general_dilated":
        kernel, layout = step.invars[1].aval.shape, step.params["dimension_numbers"].rhs_spec
        return 2 * math.prod(step.outvars[0].aval.shape) * math.prod(kernel) // kernel[layout[0]]
    return 0


def _inner(step: Any) -> Iterator[tuple[int, Any]]:
    """Yields the programs within a step, and how often each runs; of branches the last, the platforms' default."""
    times = step.params.get("length", 1) if step.primitive.name == "scan" else 1
    for name in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        if name in step.params:
            inner = step.params[name]
            yield times, getattr(inner, "jaxpr", inner)
            return
    if "branches" in step.params:
        yield times, step.params["branches"][-1].jaxpr
