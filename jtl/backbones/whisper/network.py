"""The encoder of Whisper: a log-mel spectrogram of 30 seconds through transformer blocks."""

import math
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jtl.model import Model, from_linen
from jtl.nn.audio_frontend import Conv1d
from jtl.nn.layer_norm import LayerNorm
from jtl.nn.layers import drop_layer
from jtl.nn.sizes import Size, check_size, sized
from jtl.nn.transformer import Block, exact_gelu, trunc_normal
from jtl.ops import computed_once

_SIZES = {
    "tiny": Size(384, 4, 6, 1536),
    "base": Size(512, 6, 8, 2048),
    "small": Size(768, 12, 12, 3072),
    "medium": Size(1024, 24, 16, 4096),
    "large": Size(1280, 32, 20, 5120),
}
_EPS = 1e-5


def whisper(
    size: Literal["tiny", "base", "small", "medium", "large"] | Size,
    *,
    mels: int = 80,
    positions: int = 1500,
    projection: int | None = None,
    dropout: float = 0.0,
    mlp_dropout: float = 0.0,
    attention_dropout: float = 0.0,
    layer_drop: float = 0.0,
) -> Model:
    """A Whisper encoder: two convolutions, the second of stride 2, then sinusoidal positions and pre-norm blocks.

    The input is [batch, frames, mels], as `jtl.preprocess.audio.inputs` makes it (transformers swaps the last two
    axes): exactly `2 positions` frames, because Whisper hears 30 seconds at a time, silence included.

    Features: `conv` [batch, positions, width], the output of the convolutions; `stage1`, `stage2`, ... after each
    block; `last`, the last of them, normalised; `pooled` [batch, width], the mean over time, through the projection if
    there is one. Parameters: `conv1/kernel`, `conv2/kernel`, `block1/attention/query/kernel`, ..., `norm/scale`,
    `projection/kernel`. The sinusoids come with the weights and are not learned: they are `positions` among the
    statistics.

    Args:
      size: a name, or a `Size`.
      mels: bands of the spectrogram; 128 in large-v3.
      positions: half the number of frames.
      projection: width of a dense layer after the mean; None omits it.
      dropout: dropout rate before the blocks and after both branches of each, in training.
      mlp_dropout: dropout rate within the blocks' MLPs, in training.
      attention_dropout: dropout rate of the attention weights, in training.
      layer_drop: probability that a block is skipped, for the whole batch, in training (LayerDrop).

    Raises:
      ValueError: for an unknown size or invalid numbers; when called on spectrograms of another shape.

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> net = jtl.backbones.whisper(jtl.backbones.Size(8, 1, 2, 16), mels=4, positions=10)
      >>> x = jnp.zeros((2, 20, 4))
      >>> out = jax.eval_shape(lambda: net.apply(net.init(jax.random.key(0), x), x, train=False)[0])
      >>> out["last"].shape, out["pooled"].shape
      ((2, 10, 8), (2, 8))

    Radford et al., Robust Speech Recognition via Large-Scale Weak Supervision, 2022, arXiv 2212.04356.
    """
    size = sized(size, _SIZES)
    rates = {"dropout": dropout, "mlp_dropout": mlp_dropout, "attention_dropout": attention_dropout}
    check_size(size, **rates, layer_drop=layer_drop)
    if size.width % 2 or size.width < 4:
        raise ValueError(f"width={size.width}: sines and cosines need an even one, of at least 4")
    if mels < 1 or positions < 1 or (projection is not None and projection < 1):
        raise ValueError(f"mels={mels}, positions={positions}, projection={projection}: give at least 1 of each")
    network = _Whisper(size, mels, positions, projection, dropout, mlp_dropout, attention_dropout, layer_drop)
    return from_linen(network)


class _Whisper(nn.Module):
    size: Size
    mels: int
    positions: int
    projection: int | None
    dropout: float
    mlp_dropout: float
    attention_dropout: float
    layer_drop: float

    @nn.compact
    def __call__(self, x, train: bool):
        x = self._check(x)
        width, depth, heads, hidden = self.size
        x = exact_gelu(Conv1d(width, 3, padding=(1, 1), name="conv1")(x))
        x = exact_gelu(Conv1d(width, 3, 2, padding=(1, 1), name="conv2")(x))
        features = {"conv": x}
        places = self.variable("batch_stats", "positions", lambda: jnp.asarray(sinusoids(self.positions, width)))
        x = computed_once(x + places.value.astype(x.dtype)[None])
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        for i in range(1, depth + 1):
            block = Block(
                heads,
                hidden,
                _EPS,
                self.dropout,
                mlp_dropout=self.mlp_dropout,
                attention_dropout=self.attention_dropout,
                key_bias=False,
                name=f"block{i}",
            )
            y = block(x, train)
            if train and self.layer_drop:
                y = drop_layer(self.make_rng("dropout"), self.layer_drop, x, y)
            x = features[f"stage{i}"] = y
        x = LayerNorm(_EPS, name="norm")(x)
        pooled = x.mean(1)
        if self.projection is not None:  # linear, so it may come after the mean
            pooled = nn.Dense(self.projection, kernel_init=trunc_normal, name="projection")(pooled)
        return features | {"last": x, "pooled": pooled}

    def _check(self, x: Any) -> Array:
        x = jnp.asarray(x)
        wanted = (2 * self.positions, self.mels)
        if x.ndim != 3 or x.shape[1:] != wanted or not jnp.issubdtype(x.dtype, jnp.floating):
            raise ValueError(
                f"pictures of shape {x.shape} and dtype {x.dtype}: this network takes floats [batch, frames, mels] "
                f"of exactly {wanted[0]} frames and {wanted[1]} mels"
            )
        return x


def sinusoids(positions: int, width: int) -> Float[np.ndarray, "positions width"]:
    """Sines, then cosines, of `t / 10000^(i / (width/2 − 1))` for position t and i = 0, 1, ..., width/2 − 1."""
    rates = np.exp(-math.log(10000) / (width // 2 - 1) * np.arange(width // 2))
    angles = np.arange(positions)[:, None] * rates[None]
    return np.concatenate([np.sin(angles), np.cos(angles)], 1).astype(np.float32)
