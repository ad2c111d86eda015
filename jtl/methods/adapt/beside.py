"""Initialises a model that reads a network's features alongside its head, such as a critic or a second head."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jtl import rng
from jtl.model import Model, Variables
from jtl.networks import joined
from jtl.typing import Key


def beside(net: Model, model: Model, name: str) -> Callable[[Key, Any], Variables]:
    """The `init(key, x)` of a network and of a model on its features, whose variables are stored under `name`.

    Its `init` raises a ValueError for the name of a part of the network, whose parameters both would share.
    """
    own = named(model, name)

    def init(key: Key, x: Any) -> Variables:
        made = net.init(key, x)
        if name in made.params:
            raise ValueError(f"name={name!r} is that of a part of the network, {sorted(made.params)}: give another")
        features = jax.eval_shape(lambda v, x: net.apply(v, x, train=False)[0].features, made, x)
        more = own(key, read_by(model, features, x))
        return Variables({**made.params, **more.params}, {**made.stats, **more.stats})

    return init


def named(model: Model, name: str) -> Callable[[Key, Any], Variables]:
    """The `init(key, x)` of a model whose variables are stored under `name` and drawn from a key of its own."""
    return lambda key, x: joined({name: model.init(rng.stream(key, name), x)})


def read_by(model: Model, features: Any, x: Any) -> Any:
    """Zeros in the shape of what a model reads, to initialise it with.

    Args:
      model: the model, whose `reads` is used.
      features: the backbone's features, or their shapes.
      x: the input, or its shapes.
    """
    shapes = jax.eval_shape(model.reads, features, x)
    return jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes)
