"""Multi-layer perceptron."""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp

from jtl.checked import within
from jtl.model import Model, from_linen


def mlp(widths: Sequence[int], *, dropout: float = 0.0) -> Model:
    """Hidden layers `h_l = relu(W_l h_{l−1} + b_l)` on the flattened input.

    Features: `stage1`, `stage2`, ... [batch, width] after each layer; `last` and `pooled` are the last.
    Parameters: `stage1/dense/kernel`, `stage1/dense/bias`, ...

    Args:
      widths: sizes of the layers.
      dropout: probability of dropping a unit after each layer in training.

    Raises:
      ValueError: for no widths, a width below 1, or a dropout outside [0, 1).

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> net, x = jtl.backbones.mlp((8, 4)), jnp.zeros((2, 5))
      >>> out = jax.eval_shape(lambda: net.apply(net.init(jax.random.key(0), x), x, train=False)[0])
      >>> out["stage1"].shape, out["pooled"].shape
      ((2, 8), (2, 4))
    """
    if not widths or any(w < 1 for w in widths):
        raise ValueError(f"widths={tuple(widths)}: give at least one layer, each at least 1 wide")
    within("[0, 1)", dropout=dropout)
    return from_linen(_Mlp(tuple(widths), dropout))


class _Layer(nn.Module):
    width: int
    dropout: float

    @nn.compact
    def __call__(self, x, train: bool):
        x = nn.relu(nn.Dense(self.width, kernel_init=nn.initializers.he_normal(), name="dense")(x))
        return nn.Dropout(self.dropout, deterministic=not train)(x)


class _Mlp(nn.Module):
    widths: tuple[int, ...]
    dropout: float

    @nn.compact
    def __call__(self, x, train: bool):
        x = jnp.asarray(x)
        if x.ndim < 2 or not jnp.issubdtype(x.dtype, jnp.floating):
            raise ValueError(f"inputs of shape {x.shape} and dtype {x.dtype}: give floats, [batch, ...]")
        x, features = x.reshape(x.shape[0], -1), {}
        for i, width in enumerate(self.widths, 1):
            x = features[f"stage{i}"] = _Layer(width, self.dropout, name=f"stage{i}")(x, train)
        return features | {"last": x, "pooled": x}
