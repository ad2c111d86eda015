"""Meta-Curvature: an update rule that multiplies each gradient by learned matrices, one per mode."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from jtl.methods.meta import checked
from jtl.methods.meta.update_rules import UpdateRule
from jtl.params import flatten, unflatten
from jtl.typing import Key, Params, Tree


def meta_curvature(inner_lr: float) -> UpdateRule:
    """`θ ← θ − α M(g)`, where M multiplies the gradient along each of its modes by a learned square matrix.

    A gradient has the modes out (the last axis), in (the second to last) and space (all others together):
    `M(G) = G ×_out M_o ×_in M_i ×_space M_s`; for a matrix it is `M_iᵀ G M_o`, for a vector `g M_o`. Every matrix
    starts at I, so the rule starts as gradient descent. A layer of width n needs n² numbers: if layers are wide, adapt
    only the head, or use `learned_rate`.

    Args:
      inner_lr: α; fixed, because the matrices scale it.

    Returns:
      A rule whose parameters are, for each leaf that it adapts, `out` [o, o] and, if there are such axes, `in` [i, i]
      and `space` [s, s].

    Raises:
      ValueError: for a learning rate that is not positive and finite.

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> rule = jtl.learners.meta_curvature(0.1)
      >>> {n: m.shape for n, m in rule.init(jax.random.key(0), {"w": jnp.zeros((3, 3, 2, 4))})["w"].items()}
      {'out': (4, 4), 'in': (2, 2), 'space': (9, 9)}

    Park and Oliva, Meta-Curvature, 2019, arXiv 1902.03356.
    """
    checked.positive(inner_lr=inner_lr)

    def init(key: Key, params: Params) -> Tree:
        del key

        def identities(p: Array) -> dict[str, Array]:
            sizes = zip(("out", "in", "space"), reversed(_modes(p.shape)), strict=False)
            return {name: jnp.eye(n, dtype=jnp.promote_types(p.dtype, jnp.float32)) for name, n in sizes}

        return unflatten({path: identities(p) for path, p in flatten(params).items()})

    def step(phi: Tree, grads: Params, params: Params, memory: Any) -> tuple[Params, Any]:
        matrices, found = flatten(phi), flatten(grads)

        def moved(path: str, p: Array) -> Array:
            g = found[path].reshape(_modes(p.shape))
            for back, name in enumerate(("out", "in", "space")[: g.ndim], 1):
                g = jnp.moveaxis(jnp.tensordot(g, matrices[f"{path}/{name}"].astype(g.dtype), (-back, 0)), -1, -back)
            return p - inner_lr * g.reshape(p.shape)

        return unflatten({path: moved(path, p) for path, p in flatten(params).items()}), memory

    return UpdateRule(init, lambda phi, params: (), step)


def _modes(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape as (space, in, out), (in, out) or (out,)."""
    if len(shape) < 3:
        return shape or (1,)
    space = 1
    for n in shape[:-2]:
        space *= n
    return (space, *shape[-2:])
