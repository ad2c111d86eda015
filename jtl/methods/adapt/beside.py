"""A model beside a network that reads the network's features: how a critic or a second head is initialised."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jtl import rng
from jtl.model import Model, Variables
from jtl.networks import joined
from jtl.typing import Key


def beside(net: Model, model: Model, name: str) -> Callable[[Key, Any], Variables]:
    """The `init(key, x)` of a network together with a model on its features, whose variables stand under a name."""
    own = named(model, name)

    def init(key: Key, x: Any) -> Variables:
        made = net.init(key, x)
        features = jax.eval_shape(lambda v, x: net.apply(v, x, train=False)[0].features, made, x)
        more = own(key, read_by(model, features, x))
        return Variables({**made.params, **more.params}, {**made.stats, **more.stats})

    return init


def named(model: Model, name: str) -> Callable[[Key, Any], Variables]:
    """The `init(key, x)` of a model whose variables stand under a name, from a key of its own."""
    return lambda key, x: joined({name: model.init(rng.stream(key, name), x)})


def read_by(model: Model, features: Any, x: Any) -> Any:
    """Zeros in the shapes of what a model reads, to initialise on.

    Args:
      model: says what it reads.
      features: of the backbone, or their shapes.
      x: the input, or its shapes.
    """
    shapes = jax.eval_shape(model.reads, features, x)
    return jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes)
