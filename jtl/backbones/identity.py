"""No backbone: inputs that are features already."""

import jax.numpy as jnp

from jtl.model import Model, Variables


def identity() -> Model:
    """A network without parameters whose features are its input: `pooled = last = x`.

    For heads on features that `jtl.extract` computed once: a step then needs no forward pass of the backbone. Inputs
    are [batch, dim].

    Example:
      >>> import jax.numpy as jnp, jtl
      >>> net = jtl.backbones.identity()
      >>> net.apply(jtl.Variables({}, {}), jnp.ones((2, 3)), train=False)[0]["pooled"].shape
      (2, 3)
    """

    def apply(variables, x, *, train, key=None):
        x = jnp.asarray(x)
        return {"pooled": x, "last": x}, variables.stats

    return Model(lambda key, x: Variables({}, {}), apply)
