"""Swin: a transformer with attention within windows of a map; the windows are shifted in every other block."""

from collections.abc import Callable, Sequence
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jtl.checked import positive, within
from jtl.model import Model, from_linen
from jtl.nn.layer_norm import LayerNorm
from jtl.nn.layers import Conv, Dense, check_images, drop_path_rates
from jtl.nn.transformer import Attention, Block, trunc_normal

_EPS = 1e-5  # epsilon of the normalisations between the stages, whatever that of the blocks is
_SIZES = {
    "T": (96, ((2, 3), (2, 6), (6, 12), (2, 24))),
    "S": (96, ((2, 3), (2, 6), (18, 12), (2, 24))),
    "B": (128, ((2, 4), (2, 8), (18, 16), (2, 32))),
    "L": (192, ((2, 6), (2, 12), (18, 24), (2, 48))),
}


def swin(
    size: Literal["T", "S", "B", "L"] | tuple[int, Sequence[tuple[int, int]]],
    *,
    window: int = 7,
    patch: int = 4,
    full_windows: bool = False,
    mlp_ratio: float = 4.0,
    eps: float = 1e-5,
    dropout: float = 0.0,
    attention_dropout: float = 0.0,
    drop_path: float = 0.0,
) -> Model:
    """A Swin transformer: stages of blocks with attention within windows, each but the first halving the map.

    Attention is `softmax(Q Kᵀ / √d + B) V` within windows of `window x window` tokens; B is learned for each difference
    of two positions. In every other block the windows are shifted by half a window and wrap around the map's edges,
    where a mask separates tokens that are not neighbours. A map that is not a multiple of the window is padded with
    zeros at the right and bottom before the shift (timm pads after it, which differs only at sizes without published
    weights). If the map's smaller side does not exceed the window, the windows have that side and are not shifted; with
    `full_windows` such a map is padded like any other, and each axis with more than one window is shifted, as in
    torchvision.

    Features: `stage1`, ... [batch, h, w, c]; `last`, the last of them normalised; `pooled`, its mean over the map.
    Parameters: `stem/conv/kernel`, `stem/norm/scale`, `stage1/block1/norm1/scale`, `stage1/block1/position` [(2 window
    − 1)², heads] (B), `stage1/block1/attention/query/kernel`, ..., `stage1/block1/mlp/up/kernel`, ...,
    `stage2/down/norm/scale`, `stage2/down/dense/kernel`, ..., `norm/scale`.

    Args:
      size: "T", "S", "B", "L", or (width, [(blocks, heads) of each stage]); the width is the first stage's and doubles
        from stage to stage.
      window: side of a window in tokens.
      patch: side of a patch in pixels; an image that is not a multiple of it is padded with zeros.
      full_windows: whether windows keep their full size on a map that is smaller than a window.
      mlp_ratio: hidden width of the MLPs divided by the width.
      eps: epsilon of the blocks' normalisations and the last one.
      dropout: dropout rate after the embedding and both branches of each block, in training.
      attention_dropout: dropout rate of the attention weights, in training.
      drop_path: probability of dropping the last block's branches for an example in training; it rises linearly from 0
        at the first block.

    Raises:
      ValueError: for an unknown size, or invalid numbers.

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> net, x = jtl.backbones.swin((8, [(1, 2), (1, 4)]), window=4), jnp.zeros((2, 32, 32, 3))
      >>> out = jax.eval_shape(lambda: net.apply(net.init(jax.random.key(0), x), x, train=False)[0])
      >>> out["last"].shape, out["pooled"].shape
      ((2, 4, 4, 16), (2, 16))

    Liu et al., Swin Transformer, 2021, arXiv 2103.14030.
    """
    if isinstance(size, str) and size not in _SIZES:
        raise ValueError(f"size={size!r}: give one of {list(_SIZES)}, or (width, (blocks, heads) of each stage)")
    width, stages = _SIZES[size] if isinstance(size, str) else size
    stages = tuple((blocks, heads) for blocks, heads in stages)
    if not stages or min(width, window, patch, *(number for stage in stages for number in stage)) < 1:
        raise ValueError(f"size={size!r}, window={window}, patch={patch}: give positive numbers for at least one stage")
    positive(mlp_ratio=mlp_ratio)
    for i, (_, heads) in enumerate(stages):
        if width * 2**i % heads:
            raise ValueError(f"stage{i + 1}: width={width * 2**i} is no multiple of heads={heads}")
        if int(mlp_ratio * width) < 1:
            raise ValueError(f"mlp_ratio={mlp_ratio}: a perceptron has at least one hidden unit")
    within("[0, 1)", dropout=dropout, attention_dropout=attention_dropout, drop_path=drop_path)
    return from_linen(
        _Swin(width, stages, window, patch, full_windows, mlp_ratio, eps, dropout, attention_dropout, drop_path)
    )


class _Block(Block):
    """A block with attention within windows of a map whose tokens are given row by row.

    Args:
      grid: the map's rows and columns.
      window: side of the windows.
      shifted: whether the windows are shifted by half their side.
      full: whether windows keep their full size on a smaller map.
    """

    grid: tuple[int, int] = (7, 7)
    window: int = 7
    shifted: bool = False
    full: bool = False

    def _attended(self, attention: Attention, x: Array, train: bool, mask: Array | None) -> Array:
        del mask
        table = self.param("position", trunc_normal, ((2 * self.window - 1) ** 2, self.heads), jnp.float32)
        side = self.window if self.full else min(self.window, *self.grid)
        rows, columns = self.grid if self.full else (min(self.grid),) * 2
        half = side // 2 if self.shifted else 0
        shift = (half if rows > self.window else 0, half if columns > self.window else 0)
        bias = jnp.asarray(table, x.dtype)[differences(side, self.window)].transpose(2, 0, 1)[None]
        near = _touching(self.grid, side, shift, len(x)) if any(shift) else None
        return windowed(lambda w: attention(w, train, near, bias=bias), x, self.grid, side, shift)


def windowed(
    change: Callable[[Array], Array],
    x: Float[Array, "batch tokens width"],
    grid: tuple[int, int],
    side: int,
    shift: tuple[int, int],
) -> Float[Array, "batch tokens width"]:
    """Applies `change` to all windows of a map as one array [batch * windows, side², width].

    Args:
      change: any function that keeps the shape.
      x: the map's tokens, row by row.
      grid: its rows and columns; padded with zeros to multiples of `side`.
      side: side of a window.
      shift: the rows and columns by which the windows are shifted, wrapping around the map's edges.
    """
    batch, width = len(x), x.shape[-1]
    rows, columns = (-(-n // side) for n in grid)
    maps = x.reshape(batch, *grid, width)
    maps = jnp.pad(maps, ((0, 0), (0, rows * side - grid[0]), (0, columns * side - grid[1]), (0, 0)))
    maps = jnp.roll(maps, (-shift[0], -shift[1]), (1, 2)) if any(shift) else maps
    y = maps.reshape(batch, rows, side, columns, side, width).swapaxes(2, 3)
    y = change(y.reshape(-1, side * side, width)).reshape(batch, rows, columns, side, side, width)
    y = y.swapaxes(2, 3).reshape(batch, rows * side, columns * side, width)
    y = jnp.roll(y, shift, (1, 2)) if any(shift) else y
    return y[:, : grid[0], : grid[1]].reshape(x.shape)


def differences(side: int, window: int) -> np.ndarray:
    """The table's rows for all pairs of a window's tokens; `(dy + w − 1)(2 w − 1) + dx + w − 1` for (dy, dx)."""
    y, x = np.divmod(np.arange(side * side), side)
    rows, columns = (a[:, None] - a[None, :] + window - 1 for a in (y, x))
    return rows * (2 * window - 1) + columns


def _touching(
    grid: tuple[int, int], side: int, shift: tuple[int, int], batch: int
) -> Bool[Array, "windows 1 tokens tokens"]:
    """The mask of shifted windows: whether two tokens of a window are neighbours on the map, not across its edges."""
    # Each axis of the rolled map has three parts: all before its last window, and that window's two parts, of which the
    # second came from the other edge. An axis that is not shifted is one part.
    rows, columns = (np.arange(-(-n // side) * side) for n in grid)
    part = [
        (n >= len(n) - side).astype(np.int32) + (n >= len(n) - by) if by else np.zeros_like(n)
        for n, by in zip((rows, columns), shift, strict=True)
    ]
    parts = part[0][:, None] * 3 + part[1][None, :]
    parts = parts.reshape(len(rows) // side, side, -1, side).swapaxes(1, 2).reshape(-1, side * side)
    parts = jnp.tile(jnp.asarray(parts), (batch, 1))
    return (parts[:, :, None] == parts[:, None, :])[:, None]


class _Stem(nn.Module):
    width: int
    patch: int

    @nn.compact
    def __call__(self, x):
        fill = ((0, -x.shape[1] % self.patch), (0, -x.shape[2] % self.patch))
        x = jnp.pad(x, ((0, 0), *fill, (0, 0)))
        return LayerNorm(_EPS, name="norm")(
            Conv(self.width, self.patch, self.patch, 0, bias=True, kernel_init=trunc_normal, name="conv")(x)
        )


class _Down(nn.Module):
    """Concatenates the four tokens of each 2x2 square, normalises them, and maps them linearly to twice the width."""

    @nn.compact
    def __call__(self, x: Float[Array, "batch height width channels"]) -> Array:
        x = jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0)))
        # The order of the four is column by column.
        x = jnp.concatenate([x[:, row::2, column::2] for column in (0, 1) for row in (0, 1)], -1)
        return Dense(x.shape[-1] // 2, use_bias=False, kernel_init=trunc_normal, name="dense")(
            LayerNorm(_EPS, name="norm")(x)
        )


class _Stage(nn.Module):
    heads: int
    rates: tuple[float, ...]
    window: int
    full: bool
    mlp_ratio: float
    eps: float
    dropout: float
    attention_dropout: float

    @nn.compact
    def __call__(self, x, train: bool, down: bool):
        x = _Down(name="down")(x) if down else x
        batch, rows, columns, width = x.shape
        tokens = x.reshape(batch, -1, width)
        for i, rate in enumerate(self.rates, 1):
            block = _Block(
                self.heads,
                int(self.mlp_ratio * width),
                self.eps,
                self.dropout,
                rate,
                attention_dropout=self.attention_dropout,
                grid=(rows, columns),
                window=self.window,
                shifted=i % 2 == 0,
                full=self.full,
                name=f"block{i}",
            )
            tokens = block(tokens, train)
        return tokens.reshape(x.shape)


class _Swin(nn.Module):
    width: int
    stages: tuple[tuple[int, int], ...]
    window: int
    patch: int
    full: bool
    mlp_ratio: float
    eps: float
    dropout: float
    attention_dropout: float
    drop_path: float

    @nn.compact
    def __call__(self, x, train: bool):
        x = _Stem(self.width, self.patch, name="stem")(check_images(x))
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        rates, features = drop_path_rates(self.drop_path, [blocks for blocks, _ in self.stages]), {}
        shared = (self.window, self.full, self.mlp_ratio, self.eps, self.dropout, self.attention_dropout)
        for i, (_, heads) in enumerate(self.stages, 1):
            x = features[f"stage{i}"] = _Stage(heads, rates[i - 1], *shared, name=f"stage{i}")(x, train, i > 1)
        x = LayerNorm(self.eps, name="norm")(x)
        return features | {"last": x, "pooled": jnp.mean(x, (1, 2))}
