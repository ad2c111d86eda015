"""Grouped convolutions as fewer and wider ones, which a CPU computes in a fraction of the time.

Products of a group's few channels leave a CPU's vector units idle. So neighbouring groups are merged into one block,
whose kernel is 0 between groups: several times the operations, at many times the speed.
"""

from functools import reduce
from operator import add

import jax.numpy as jnp
from jaxtyping import Array, Float

from jtl.nn.depthwise import Borders
from jtl.nn.patches import taps

WIDE = 32  # most channels of a block: the fastest of 32, 64 and 128


def blocks_of_groups(
    kernel: Float[Array, "kh kw inputs out_channels"], channels: int
) -> Float[Array, "blocks kh kw block_inputs block_outputs"]:
    """The kernels of several convolutions of consecutive channels, which together are the grouped convolution.

    Args:
      kernel: kernel in `channels / inputs` groups.
      channels: number of input channels.
    """
    kh, kw, inputs, out = kernel.shape
    groups = channels // inputs
    together = max(n for n in range(1, groups + 1) if groups % n == 0 and (n * inputs <= WIDE or n == 1))
    blocks = groups // together
    split = kernel.reshape(kh, kw, inputs, blocks, together, out // groups).transpose(3, 0, 1, 4, 2, 5)
    one = jnp.eye(together, dtype=kernel.dtype).reshape(1, 1, 1, together, 1, together, 1)
    wide = split[:, :, :, :, :, None] * one
    return wide.reshape(blocks, kh, kw, together * inputs, out // blocks)


def products_of_blocks(
    x: Float[Array, "batch height width channels"],
    kernels: Float[Array, "blocks kh kw block_inputs block_outputs"],
    stride: int,
    borders: Borders,
) -> Float[Array, "batch out_height out_width out_channels"]:
    """The convolutions of `blocks_of_groups`: one product for each position in the kernel and each block.

    Args:
      x: images.
      kernels: the kernels of all blocks.
      stride: stride in both directions.
      borders: zeros added at the borders.
    """
    blocks, kh, kw, inputs, out = kernels.shape
    b, h, w, _ = x.shape
    parts = jnp.moveaxis(x.reshape(b, h, w, blocks, inputs), 3, 0).reshape(blocks * b, h, w, inputs)
    seen = list(taps(parts, (kh, kw), stride, borders))
    _, rows, columns, _ = seen[0].shape
    weights = jnp.moveaxis(kernels.reshape(blocks, kh * kw, inputs, out), 1, 0)
    y = reduce(add, (tap.reshape(blocks, -1, inputs) @ weight for tap, weight in zip(seen, weights, strict=True)))
    return jnp.moveaxis(y, 0, 1).reshape(b, rows, columns, blocks * out)
