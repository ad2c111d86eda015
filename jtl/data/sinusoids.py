"""Regression tasks: sinusoids of random amplitude and phase."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from jaxtyping import Key as PRNGKey

from jtl.checked import whole
from jtl.data.drawn import Drawn
from jtl.typing import Batch, Key


def sample_sinusoids(keys: PRNGKey[Array, " tasks"], *, shot: int, query: int) -> Batch:
    """Draws tasks `y = a sin(x − p)`, one per key: a in [0.1, 5], p in [0, π], x in [−5, 5], all uniform; to be jitted.

    Args:
      keys: one per task, [tasks].
      shot: the number of points of the support set.
      query: the number of points of the query set.

    Returns:
      {"support": {"x": [tasks, shot, 1], "y": [tasks, shot, 1]}, "query": likewise}, float32.

    Raises:
      ValueError: for numbers that are not integers of at least 1.

    Example:
      >>> import jax, jtl
      >>> tasks = jtl.data.sample_sinusoids(jax.random.split(jax.random.key(0), 3), shot=5, query=10)
      >>> tasks["support"]["x"].shape, tasks["query"]["y"].shape
      ((3, 5, 1), (3, 10, 1))
    """
    whole(1, shot=shot, query=query)

    def one(key: Key) -> Batch:
        a, p, x = jax.random.split(key, 3)
        amplitude = jax.random.uniform(a, (), minval=0.1, maxval=5.0)
        phase = jax.random.uniform(p, (), maxval=np.pi)
        points = jax.random.uniform(x, (shot + query, 1), minval=-5.0, maxval=5.0)
        y = amplitude * jnp.sin(points - phase)
        return {"support": {"x": points[:shot], "y": y[:shot]}, "query": {"x": points[shot:], "y": y[shot:]}}

    return jax.vmap(one)(keys)


class sinusoids(Drawn):
    """Data set of sinusoid regression tasks: `sinusoids(shot=10, query=10, tasks=25)[step]`.

    Args:
      shot: the number of points of the support set.
      query: the number of points of the query set.
      tasks: the number of tasks in the global batch; the processes share them.
      seed: the seed of the draws.
      steps: the value of `len`, because an epoch has no meaning here.
      process_index: None asks jax when the first batch is drawn.
      process_count: likewise.

    Raises:
      ValueError: for numbers that are not integers of at least 1, or an invalid process.

    Example:
      >>> import jtl
      >>> jtl.data.sinusoids(shot=10, query=10, tasks=25)[0]["support"]["y"].shape
      (25, 10, 1)

    Finn et al., Model-Agnostic Meta-Learning, 2017, arXiv 1703.03400.
    """

    def __init__(
        self,
        *,
        shot: int,
        query: int,
        tasks: int,
        seed: int = 0,
        steps: int = 100,
        process_index: int | None = None,
        process_count: int | None = None,
    ) -> None:
        whole(1, shot=shot, query=query)  # at once, not when the first batch is drawn

        def draw(keys: Array, source: None) -> Batch:
            del source
            return sample_sinusoids(keys, shot=shot, query=query)

        super().__init__(draw, None, tasks, seed, steps, (process_index, process_count))
