"""Small runs over many seeds: a whole run is one compiled program, vectorised over the seeds."""

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import jaxtyping
from jaxtyping import Array

from jtl import rng
from jtl.model import Variables
from jtl.train.state import State
from jtl.train.step import Step
from jtl.typing import Batch, Key

Keys: TypeAlias = jaxtyping.Key[Array, "seeds"]
"""One root key per seed."""


def train_seeds(
    step: Step, variables: Variables, keys: Keys, data: Any, batch: Callable[[Any, Key], Batch], steps: int
) -> tuple[State, dict[str, Any]]:
    """Trains one run per seed.

    Args:
      step: the step from `make_step`.
      variables: the variables of all seeds, with a leading axis of seeds on every leaf.
      keys: one per seed, [seeds].
      data: arrays with a leading axis of seeds, such as `tiled` adds.
      batch: `batch(data, key) -> batch` for one seed, with the key of a step.
      steps: the number of steps.

    Returns:
      The last states, with a leading axis of seeds, and the metrics [seeds, steps].
    """

    def run(variables: Variables, key: Key, data: Any) -> tuple[State, dict[str, Any]]:
        def body(state: State, i: Any) -> tuple[State, dict[str, Any]]:
            return step(state, batch(data, rng.stream(key, "batch", i)))

        return jax.lax.scan(body, step.init(variables, key), jnp.arange(steps))

    return jax.jit(jax.vmap(run))(variables, keys, data)


def tiled(tree: Any, seeds: int) -> Any:
    """Repeats arrays for every seed: [...] becomes [seeds, ...]."""
    return jax.tree.map(lambda a: jnp.broadcast_to(jnp.asarray(a), (seeds, *jnp.shape(a))), tree)


def drawn(data: dict[str, Any], key: Key, size: int) -> dict[str, Any]:
    """Draws a batch of rows, with replacement."""
    rows = jax.random.randint(key, (size,), 0, len(next(iter(data.values()))))
    return {name: value[rows] for name, value in data.items()}


def one(tree: Any, seed: int = 0) -> Any:
    """The part of one seed."""
    return jax.tree.map(lambda a: a[seed], tree)
