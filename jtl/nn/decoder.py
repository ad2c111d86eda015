"""Decoder heads: from a backbone's maps to one map of outputs."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jtl.heads import Reads, reading
from jtl.model import Model, from_linen
from jtl.nn.layers import Conv
from jtl.reads import whole


def map_decoder(classes: int, width: int = 64, *, reads: Reads = whole("last")) -> Model:
    """A small feature pyramid: fuses maps at the finest resolution and computes one output at every pixel.

    `u = Σ_s resize(W_s f_s)` over the maps f_s that it reads, `z = V relu(conv3x3(u)) + c`. Coarser maps are resized
    bilinearly. Parameters: `fused/lateral_<name>/kernel`, `fused/smooth/kernel`, `out/kernel`.

    Args:
      classes: channels of the output.
      width: channels of u.
      reads: whole maps [batch, h, w, channels], such as `whole("stage2", "stage4")`.

    Raises:
      ValueError: for sizes below 1; when called on inputs that are not maps.

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> from jtl.nn.decoder import map_decoder
      >>> net = jtl.network(
      ...     backbone=jtl.backbones.conv4(4), head=map_decoder(3, 8, reads=jtl.reads.whole("stage2", "stage4"))
      ... )
      >>> x = jnp.zeros((1, 32, 32, 3))
      >>> net.apply(net.init(jax.random.key(0), x), x, train=False)[0].output.shape
      (1, 8, 8, 3)

    Lin et al., Feature Pyramid Networks for Object Detection, 2016, arXiv 1612.03144.
    """
    if classes < 1 or width < 1:
        raise ValueError(f"classes={classes}, width={width}: sizes are at least 1")
    return reading(from_linen(_Decoder(classes, width)), reads)


class FusedMaps(nn.Module):
    """Projects maps to one width, sums them at the finest resolution, and smooths by a 3x3 convolution and ReLU.

    Args:
      width: channels of the result.
    """

    width: int

    @nn.compact
    def __call__(self, x: Any) -> Float[Array, "batch height width channels"]:
        """Maps one map, or several by name, to [batch, h, w, width] at the finest resolution."""
        maps = {name: jnp.asarray(found) for name, found in (x if isinstance(x, dict) else {"map": x}).items()}
        for name, found in maps.items():
            if found.ndim != 4:
                raise ValueError(f"feature {name!r} of shape {found.shape} is no map [batch, height, width, channels]")
        size = max(((found.shape[1], found.shape[2]) for found in maps.values()), key=lambda hw: hw[0] * hw[1])
        parts = []
        for name, found in maps.items():
            y = Conv(self.width, 1, bias=True, name=f"lateral_{name}")(found)
            parts.append(resized(y, size))
        return nn.relu(Conv(self.width, 3, bias=True, name="smooth")(sum(parts[1:], parts[0])))


def resized(maps: Float[Array, "batch _ _ channels"], size: tuple[int, int]) -> Float[Array, "batch _ _ channels"]:
    """Resizes maps [batch, h, w, channels] bilinearly, as torch's `interpolate(align_corners=False)` does."""
    shape = (maps.shape[0], *size, maps.shape[-1])
    return maps if shape == maps.shape else jax.image.resize(maps, shape, "linear", antialias=False)


class _Decoder(nn.Module):
    classes: int
    width: int

    @nn.compact
    def __call__(self, x, train: bool):
        del train  # training makes no difference
        return Conv(self.classes, 1, bias=True, name="out")(FusedMaps(self.width, name="fused")(x))
