"""Encoders of raw audio: wav2vec 2.0 and HuBERT are one network."""

from collections.abc import Sequence
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jtl.model import Model, from_linen
from jtl.nn.audio_frontend import Conv1d, Convolution, check_waves, conv1d, mask_of_frames, samples_of_frame
from jtl.nn.layer_norm import LayerNorm
from jtl.nn.layers import Dense, drop_layer
from jtl.nn.sizes import Size, check_size, sized
from jtl.nn.span_masking import Spans, check_spans, span_mask
from jtl.nn.transformer import Block, exact_gelu, trunc_normal
from jtl.ops import computed_once, mean_of_tokens

_SIZES = {"base": Size(768, 12, 12, 3072), "large": Size(1024, 24, 16, 4096), "xlarge": Size(1280, 48, 16, 5120)}
_EPS = 1e-5  # epsilon of the normalisations between convolutions, whatever that of the others is
CONVOLUTIONS = (
    Convolution(512, 10, 5),
    *(Convolution(512, 3, 2),) * 4,
    *(Convolution(512, 2, 2),) * 2,
)
"""Those of every published network: a frame sees 400 samples (25 ms); the next begins 320 samples (20 ms) later."""


def wav2vec2(
    size: Literal["base", "large", "xlarge"] | Size,
    *,
    convolutions: Sequence[Convolution] = CONVOLUTIONS,
    norm: Literal["group", "layer"] = "group",
    bias: bool = False,
    pre_norm: bool = False,
    positions: int = 128,
    groups: int = 16,
    first_norm: bool = True,
    masked: bool = False,
    hidden_frames: Spans | None = None,
    hidden_channels: Spans | None = None,
    projection: int | None = None,
    eps: float = 1e-5,
    dropout: float = 0.1,
    first_dropout: float = 0.0,
    mlp_dropout: float = 0.1,
    attention_dropout: float = 0.1,
    layer_drop: float = 0.0,
) -> Model:
    """A wav2vec 2.0 or a HuBERT: convolutions turn the wave into frames, transformer blocks relate the frames.

    The input is a dict, as `jtl.preprocess.audio.inputs` makes it: `wave` [batch, samples], floats, and `mask` [batch,
    samples], true where there is sound, with padding after it; without a mask all is sound. Frames that see padding are
    zeroed after the convolutions and hidden from the other frames.

    Features: `conv` [batch, frames, channels], the output of the convolutions; `stage1`, `stage2`, ... [batch, frames,
    width] after each block; `last`, the last of them, normalised; `pooled` [batch, width], the mean of the frames of
    sound, through the projection if there is one; with a mask also `frames` [batch, frames], true for those frames.

    Parameters: `conv1/conv/kernel`, `conv1/norm/scale`, `embed/kernel`, `positions/direction`, `positions/length`,
    `block1/attention/query/kernel`, ..., `projection/kernel`.

    Args:
      size: a name, or a `Size`.
      convolutions: the convolutions, first to last.
      norm: "group" normalises each channel over time, after the first convolution only; "layer" normalises each frame
        over its channels, after every convolution.
      bias: whether the convolutions have a bias.
      pre_norm: whether to normalise before the branches of a block and after the last block, as in the large networks
        trained on 60,000 hours; else after the branches and before the first block.
      positions: length in frames of the convolution that computes position embeddings.
      groups: number of groups of that convolution.
      first_norm: whether to normalise frames before they are projected to `width`.
      masked: whether there is a vector, `masked`, that replaces hidden frames.
      hidden_frames: spans of frames that `masked` replaces before the blocks, in training (SpecAugment); None omits it.
      hidden_channels: spans of channels that are zeroed in all frames of a sound, in training; None omits it.
      projection: width of a dense layer after the mean; None omits it.
      eps: epsilon of the layer normalisations except those between convolutions.
      dropout: dropout rate before the blocks and after both branches of each, in training.
      first_dropout: dropout rate of the frames after their projection to `width`, in training.
      mlp_dropout: dropout rate within the blocks' MLPs, in training.
      attention_dropout: dropout rate of the attention weights, in training.
      layer_drop: probability that a block is skipped, for the whole batch, in training (LayerDrop).

    Raises:
      ValueError: for an unknown size or invalid numbers; when called on an input of another kind or on sounds that are
        too short for one frame.

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> ears = [jtl.backbones.Convolution(8, 10, 5)]
      >>> net = jtl.backbones.wav2vec2(jtl.backbones.Size(8, 1, 2, 16), convolutions=ears, positions=4, groups=2)
      >>> x = {"wave": jnp.zeros((2, 400))}
      >>> out = jax.eval_shape(lambda: net.apply(net.init(jax.random.key(0), x), x, train=False)[0])
      >>> out["last"].shape, out["pooled"].shape
      ((2, 79, 8), (2, 8))

    Baevski et al., wav2vec 2.0, 2020, arXiv 2006.11477; Hsu et al., HuBERT, 2021, arXiv 2106.07447; Park et al.,
    SpecAugment, 2019, arXiv 1904.08779; Fan et al., Reducing Transformer Depth on Demand with Structured Dropout, 2019,
    arXiv 1909.11556.
    """
    size = sized(size, _SIZES)
    rates = {"dropout": dropout, "first_dropout": first_dropout, "mlp_dropout": mlp_dropout}
    check_size(size, **rates, attention_dropout=attention_dropout, layer_drop=layer_drop)
    given = {"hidden_frames": hidden_frames, "hidden_channels": hidden_channels}
    check_spans(**{name: spans for name, spans in given.items() if spans is not None})
    if hidden_frames is not None and not masked:
        raise ValueError(f"hidden_frames={hidden_frames}: a vector stands for them, give masked=True")
    convolutions = tuple(Convolution(*measures) for measures in convolutions)
    if not convolutions or min(map(min, convolutions)) < 1 or positions < 1:
        raise ValueError(f"convolutions={convolutions}, positions={positions}: give at least one, and sizes above zero")
    if norm not in ("group", "layer"):
        raise ValueError(f"norm={norm!r}: give 'group' or 'layer'")
    if groups < 1 or size.width % groups:
        raise ValueError(f"width={size.width} is no multiple of groups={groups}")
    if projection is not None and projection < 1:
        raise ValueError(f"projection={projection}: give a width of at least 1, or None")
    network = _Wav2Vec2(
        size,
        convolutions,
        norm == "layer",
        bias,
        pre_norm,
        positions,
        groups,
        first_norm,
        masked,
        hidden_frames,
        hidden_channels,
        projection,
        eps,
        dropout,
        first_dropout,
        mlp_dropout,
        attention_dropout,
        layer_drop,
    )
    return from_linen(network)


class _Wav2Vec2(nn.Module):
    size: Size
    convolutions: tuple[Convolution, ...]
    layer_norm: bool
    bias: bool
    pre_norm: bool
    positions: int
    groups: int
    first_norm: bool
    masked: bool
    hidden_frames: Spans | None
    hidden_channels: Spans | None
    projection: int | None
    eps: float
    dropout: float
    first_dropout: float
    mlp_dropout: float
    attention_dropout: float
    layer_drop: float

    @nn.compact
    def __call__(self, x, train: bool):
        wave, mask = check_waves(x, samples_of_frame(self.convolutions))
        width, depth, heads, hidden = self.size
        x = wave[:, :, None]
        for i, convolution in enumerate(self.convolutions, 1):
            norm = "layer" if self.layer_norm else "group" if i == 1 else None
            x = _Layer(convolution, norm, self.bias, name=f"conv{i}")(x)
        features = {"conv": x}
        x = self._norm("embed_norm")(x) if self.first_norm else x
        x = Dense(width, kernel_init=trunc_normal, name="embed")(x)
        x = nn.Dropout(self.first_dropout, deterministic=not train)(x)
        real = jnp.ones(x.shape[:2], bool)
        if mask is not None:
            real = features["frames"] = mask_of_frames(mask, self.convolutions, x.shape[1])
        x = self._hidden(x, real, train)
        if mask is not None:
            x = jnp.where(real[:, :, None], x, jnp.zeros_like(x))
        x = computed_once(x + _Positions(self.positions, self.groups, name="positions")(x))
        x = x if self.pre_norm else self._norm("norm")(x)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        for i in range(1, depth + 1):
            block = Block(
                heads,
                hidden,
                self.eps,
                self.dropout,
                mlp_dropout=self.mlp_dropout,
                attention_dropout=self.attention_dropout,
                post_norm=not self.pre_norm,
                name=f"block{i}",
            )
            y = block(x, train, None if mask is None else real[:, None, None])
            if train and self.layer_drop:
                y = drop_layer(self.make_rng("dropout"), self.layer_drop, x, y)
            x = features[f"stage{i}"] = y
        x = self._norm("norm")(x) if self.pre_norm else x
        pooled = mean_of_tokens(x, real)
        if self.projection is not None:  # linear, so it may come after the mean
            pooled = Dense(self.projection, kernel_init=trunc_normal, name="projection")(pooled)
        return features | {"last": x, "pooled": pooled}

    def _hidden(self, x: Array, real: Array, train: bool) -> Array:
        """The frames; in training spans of frames are replaced by the mask vector, spans of channels by zeros."""
        batch, frames, width = x.shape
        vector = self.param("masked", nn.initializers.uniform(1.0), (width,), jnp.float32) if self.masked else None
        if train and self.hidden_frames is not None and vector is not None:
            hidden = span_mask(self.make_rng("dropout"), self.hidden_frames, real.sum(1), frames)
            x = jnp.where(hidden[:, :, None], vector.astype(x.dtype)[None, None], x)
        if train and self.hidden_channels is not None:
            hidden = span_mask(self.make_rng("dropout"), self.hidden_channels, jnp.full(batch, width), width)
            x = jnp.where(hidden[:, None], jnp.zeros_like(x), x)
        return x

    def _norm(self, name: str) -> LayerNorm:
        return LayerNorm(self.eps, name=name)


class _Layer(nn.Module):
    convolution: Convolution
    norm: Literal["group", "layer"] | None
    bias: bool

    @nn.compact
    def __call__(self, x):
        x = Conv1d(*self.convolution, bias=self.bias, name="conv")(x)
        if self.norm == "layer":
            x = LayerNorm(_EPS, name="norm")(x)
        elif self.norm == "group":
            x = _OverTime(name="norm")(x)
        return exact_gelu(x)


class _OverTime(nn.Module):
    """Normalises each channel of a sound to mean 0 and variance 1 over time, padding included; scales and shifts it."""

    @nn.compact
    def __call__(self, x: Float[Array, "batch steps channels"]) -> Array:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],), jnp.float32)
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        y = wide - wide.mean(1, keepdims=True)
        y = y / jnp.sqrt(jnp.square(y).mean(1, keepdims=True) + _EPS)
        return y.astype(x.dtype) * scale.astype(x.dtype).reshape(1, 1, -1) + bias.astype(x.dtype).reshape(1, 1, -1)


class _Positions(nn.Module):
    """The convolutional position embedding: a grouped convolution with weight normalisation.

    Step k of the kernel is `g_k V_k / ‖V_k‖`. A kernel of even length reaches one frame less to the right.

    Salimans and Kingma, Weight Normalization, 2016, arXiv 1602.07868.
    """

    length: int
    groups: int

    @nn.compact
    def __call__(self, x: Float[Array, "batch frames width"]) -> Array:
        k, width = self.length, x.shape[-1]
        normal = nn.initializers.normal(2 / (k * width) ** 0.5)
        direction = self.param("direction", normal, (k, width // self.groups, width), jnp.float32)
        direction = direction.astype(jnp.promote_types(direction.dtype, jnp.float32))
        norms = jnp.sqrt(jnp.square(direction).sum((1, 2)))
        length = self.param("length", lambda key: norms)
        bias = self.param("bias", nn.initializers.zeros, (width,), jnp.float32)
        kernel = direction * (length.astype(norms.dtype) / norms)[:, None, None]
        y = conv1d(x, kernel.astype(x.dtype), 1, (k // 2, (k - 1) // 2))
        return exact_gelu(y + bias.astype(x.dtype).reshape(1, 1, -1))
