"""Recurrent text encoders, LSTM and GRU: a baseline."""

from typing import Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jtl.checked import within
from jtl.model import Model, from_linen
from jtl.nn.layers import Dense
from jtl.nn.text_inputs import check_texts
from jtl.ops import mean_of_tokens

Carry = tuple[Array, ...]


class RecurrentSize(NamedTuple):
    """Sizes of a recurrent network.

    Args:
      width: width of an embedded word.
      hidden: width of the state of each direction.
      depth: number of layers.
    """

    width: int
    hidden: int
    depth: int = 1


def recurrent(
    cell: Literal["lstm", "gru"],
    size: RecurrentSize,
    *,
    vocabulary: int,
    bidirectional: bool = False,
    dropout: float = 0.0,
) -> Model:
    """Embedded words through layers of LSTM or GRU, as `torch.nn.LSTM` and `torch.nn.GRU` compute them.

    LSTM, with i, f, g, o the quarters of `W x + b + U h + d`: `c' = σ(f) c + σ(i) tanh(g)`, `h' = σ(o) tanh(c')`.
    GRU, with r, z, n the thirds of `W x + b`, and r', z', n' those of `U h + d`:
    `h' = σ(z+z') h + (1 − σ(z+z')) tanh(n + σ(r+r') n')`.

    The input is a dict of `ids` and `mask`, as for `bert`; `types` are ignored. Where the mask is false the state does
    not change, so padding has no effect, wherever it is.

    Features: `stage1`, `stage2`, ... [batch, tokens, hidden] after each layer (forward and backward concatenated if
    bidirectional), 0 where there is no token; `last`, the last of them; `pooled`, the state at the end, for the
    backward direction at the beginning; `mean`, the mean over the tokens. Parameters: `words/embedding`,
    `layer1/forward/input/kernel`, `layer1/forward/state/kernel`, `layer1/backward/...`.

    Args:
      cell: "lstm" or "gru".
      size: widths and number of layers.
      vocabulary: number of ids.
      bidirectional: whether a second network in each layer reads from the end to the beginning.
      dropout: dropout rate between layers, in training.

    Raises:
      ValueError: for an unknown cell or invalid numbers; when called on an input of another kind.

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> net = jtl.backbones.recurrent("gru", jtl.backbones.RecurrentSize(4, 8), vocabulary=30)
      >>> x = {"ids": jnp.ones((2, 6), jnp.int32), "mask": jnp.ones((2, 6), bool)}
      >>> out = jax.eval_shape(lambda: net.apply(net.init(jax.random.key(0), x), x, train=False)[0])
      >>> out["last"].shape, out["pooled"].shape
      ((2, 6, 8), (2, 8))

    Hochreiter and Schmidhuber, Long Short-Term Memory, 1997; Cho et al., Learning Phrase Representations using RNN
    Encoder-Decoder, 2014, arXiv 1406.1078.
    """
    if cell not in _CELLS:
        raise ValueError(f"cell={cell!r}: give one of {list(_CELLS)}")
    if vocabulary < 1 or min(size) < 1:
        raise ValueError(f"vocabulary={vocabulary}, {size}: all are at least 1")
    within("[0, 1)", dropout=dropout)
    return from_linen(_Recurrent(cell, size, vocabulary, bidirectional, dropout))


def _lstm(carry: Carry, x: Array, state: Array) -> Carry:
    i, f, g, o = jnp.split(x + state, 4, -1)
    c = nn.sigmoid(f) * carry[1] + nn.sigmoid(i) * jnp.tanh(g)
    return nn.sigmoid(o) * jnp.tanh(c), c


def _gru(carry: Carry, x: Array, state: Array) -> Carry:
    (rx, zx, nx), (rh, zh, nh) = jnp.split(x, 3, -1), jnp.split(state, 3, -1)
    z = nn.sigmoid(zx + zh)
    return (z * carry[0] + (1 - z) * jnp.tanh(nx + nn.sigmoid(rx + rh) * nh),)


# The function of a step, the number of gates, and the number of arrays that it carries, of which the first is the
# output.
_CELLS = {"lstm": (_lstm, 4, 2), "gru": (_gru, 3, 1)}


class _Recurrent(nn.Module):
    cell: str
    size: RecurrentSize
    vocabulary: int
    bidirectional: bool
    dropout: float

    @nn.compact
    def __call__(self, x, train: bool):
        ids, mask, *_ = check_texts(x)
        width, hidden, depth = self.size
        x = nn.Embed(self.vocabulary, width, embedding_init=nn.initializers.normal(1.0), name="words")(ids)
        directions = ("forward", "backward") if self.bidirectional else ("forward",)
        features, ends = {}, []
        for i in range(1, depth + 1):
            layer = _Layer(self.cell, hidden, directions, name=f"layer{i}")
            if i > 1:
                x = nn.Dropout(self.dropout, deterministic=not train)(x)
            x, ends = layer(x, mask)
            features[f"stage{i}"] = x
        return features | {"last": x, "mean": mean_of_tokens(x, mask), "pooled": jnp.concatenate(ends, -1)}


class _Layer(nn.Module):
    cell: str
    hidden: int
    directions: tuple[str, ...]

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch tokens width"], mask: Bool[Array, "batch tokens"]
    ) -> tuple[Float[Array, "batch tokens features"], list[Array]]:
        found = [_Direction(self.cell, self.hidden, name == "backward", name=name)(x, mask) for name in self.directions]
        outputs, ends = zip(*found, strict=True)
        return jnp.concatenate(outputs, -1), list(ends)


class _Direction(nn.Module):
    cell: str
    hidden: int
    reverse: bool

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch tokens width"], mask: Bool[Array, "batch tokens"]
    ) -> tuple[Float[Array, "batch tokens hidden"], Float[Array, "batch hidden"]]:
        rule, gates, carried = _CELLS[self.cell]

        def dense(name):
            init = _uniform(self.hidden)
            return Dense(gates * self.hidden, kernel_init=init, bias_init=init, name=name)

        def step(state: nn.Module, carry: Carry, given: tuple[Array, Array]) -> tuple[Carry, Array]:
            x, here = given
            new = rule(carry, x, state(carry[0]))
            return tuple(jnp.where(here, a, b) for a, b in zip(new, carry, strict=True)), jnp.where(here, new[0], 0)

        # The part that does not depend on the state is one product for all tokens.
        inputs = dense("input")(x)
        start = (jnp.zeros((len(x), self.hidden), inputs.dtype),) * carried
        scan = nn.scan(
            step,
            variable_broadcast="params",
            split_rngs={"params": False},
            in_axes=1,
            out_axes=1,
            reverse=self.reverse,
        )
        end, outputs = scan(dense("state"), start, (inputs, mask[:, :, None]))
        return outputs, end[0]


def _uniform(hidden: int) -> jax.nn.initializers.Initializer:
    """Uniform on [−1/√hidden, 1/√hidden], torch's initialisation of every array."""

    def init(key: Array, shape, dtype=jnp.float32, out_sharding=None) -> Array:
        return jax.random.uniform(key, shape, dtype, -(hidden**-0.5), hidden**-0.5)

    return init
