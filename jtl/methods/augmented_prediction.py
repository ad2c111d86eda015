"""Test-time augmentation: averages predictions over augmented views of an input."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jtl.model import Model, Variables
from jtl.typing import Key


def augmented_predictor(net: Model, augments: Sequence[Callable[[Key, Any], Any]]) -> Callable[..., Array]:
    """Returns `predict(variables, x, key) -> log p` with `p = mean_k softmax(net(a_k(x)))` over the views a_k.

    The result can be used like logits: its argmax and its `cross_entropy` are those of p.

    Args:
      net: a classifier with one head.
      augments: one augmentation per view, like those of `jtl.data.augment`; `lambda key, x: x` keeps the image.

    Raises:
      ValueError: if there is no view; while tracing, for an output that is not an array.

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> from jtl.data import augment
      >>> net = jtl.network(backbone=jtl.backbones.conv4(4), head=jtl.heads.linear(3))
      >>> x = jnp.ones((2, 16, 16, 3))
      >>> predict = jtl.augmented_predictor(net, [lambda key, x: x, augment.flip(1.0)])
      >>> predict(net.init(jax.random.key(0), x), x, jax.random.key(1)).shape
      (2, 3)

    Krizhevsky et al., ImageNet Classification with Deep Convolutional Neural Networks, 2012, section 4.1.
    """
    views = list(augments)
    if not views:
        raise ValueError("augments is empty: give at least one view, as lambda key, x: x")

    def predict(variables: Variables, x: Any, key: Key) -> Array:
        logs = []
        for i, augment in enumerate(views):
            seen = augment(jax.random.fold_in(key, i), x)
            z = net.apply(variables, seen, train=False, key=None)[0].output
            if not isinstance(z, jax.Array):
                raise ValueError(f"the output is {jax.tree.map(jnp.shape, z)}: test-time augmentation takes one head")
            logs.append(jax.nn.log_softmax(z.astype(jnp.promote_types(z.dtype, jnp.float32))))
        return jax.nn.logsumexp(jnp.stack(logs), axis=0) - jnp.log(len(logs))

    return predict
