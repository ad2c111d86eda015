"""Rotary position embeddings, and ways to stretch them to texts longer than those seen in pretraining."""

import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


class Linear(NamedTuple):
    """Divides all frequencies by `factor`.

    Chen et al., Extending Context Window of Large Language Models via Positional Interpolation, 2023, arXiv 2306.15595.
    """

    factor: float


class Dynamic(NamedTuple):
    """Grows θ with a text's length n: `θ (factor n / longest − factor + 1)^(d / (d − 2))` if n exceeds `longest`.

    Each text has its own n, its last place plus 1, so that its features do not depend on other texts in the batch.

    Peng et al., YaRN, 2023, arXiv 2309.00071, Section 3.3.
    """

    factor: float
    longest: int


class Llama3(NamedTuple):
    """Divides the frequencies of wavelengths above `longest / low` by `factor`, keeps those below `longest / high`.

    Those between are interpolated linearly in `longest / wavelength`.

    Grattafiori et al., The Llama 3 Herd of Models, 2024, arXiv 2407.21783.
    """

    factor: float
    low: float
    high: float
    longest: int


class Yarn(NamedTuple):
    """Divides frequencies of less than `slow` turns in `longest` places by `factor`, keeps those of more than `fast`.

    Those between are interpolated linearly in their index, and the rotated vectors are multiplied by `scale`.

    Args:
      factor: divisor of the frequencies.
      longest: number of places in pretraining.
      scale: factor on queries and on keys; 0.1 ln(factor) + 1 in the paper.
      fast: turns, β in the paper.
      slow: turns, α in the paper.
      truncate: whether the limits are rounded to whole indices.

    Peng et al., YaRN: Efficient Context Window Extension of Large Language Models, 2023, arXiv 2309.00071.
    """

    factor: float
    longest: int
    scale: float
    fast: float = 32.0
    slow: float = 1.0
    truncate: bool = True


Scaling = Linear | Dynamic | Llama3 | Yarn


class Rotary(NamedTuple):
    """The rotation of queries and keys.

    Args:
      theta: θ, the base of the wavelengths.
      scaling: scaling for longer texts, or None.
    """

    theta: float = 10000.0
    scaling: Scaling | None = None


def frequencies(rotary: Rotary, dim: int) -> np.ndarray:
    """`θ^(−2i/d)` in radians per place, after scaling, as float64 [dim / 2].

    `Dynamic` has no effect here, because it depends on the text.

    Args:
      rotary: θ and the scaling.
      dim: width of a head, even.

    Example:
      >>> from jtl.nn.rotary import Linear, Rotary, frequencies
      >>> frequencies(Rotary(100.0, Linear(2.0)), 4).tolist()
      [0.5, 0.05]
    """
    plain = rotary.theta ** -(np.arange(0, dim, 2) / dim)
    scaling = rotary.scaling
    if isinstance(scaling, Linear):
        return plain / scaling.factor
    if isinstance(scaling, Llama3):
        turns = plain * scaling.longest / (2 * math.pi)
        kept = np.clip((turns - scaling.low) / (scaling.high - scaling.low), 0, 1)
    elif isinstance(scaling, Yarn):
        kept = 1 - _ramp(scaling, rotary.theta, dim)
    else:
        return plain
    return plain * (kept + (1 - kept) / scaling.factor)


def _ramp(scaling: Yarn, theta: float, dim: int) -> np.ndarray:
    """A ramp from 0, up to the index of `fast` turns, to 1, from the index of `slow` turns on."""

    def index(turns: float) -> float:
        return dim * math.log(scaling.longest / (turns * 2 * math.pi)) / (2 * math.log(theta))

    first, last = index(scaling.fast), index(scaling.slow)
    if scaling.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, dim - 1)
    last = last + 0.001 if first == last else last
    return np.clip((np.arange(dim // 2) - first) / (last - first), 0, 1)


def turns(
    rotary: Rotary, places: Int[Array, "batch tokens"], dim: int, dtype: np.dtype
) -> tuple[Float[Array, "batch tokens 1 half"], Float[Array, "batch tokens 1 half"]]:
    """`cos(m f_i)` and `sin(m f_i)` of the token at place m, in float32 at least.

    Args:
      rotary: θ and the scaling.
      places: m, integers.
      dim: width of a head, even.
      dtype: dtype of the queries and keys.
    """
    wide = jnp.promote_types(dtype, jnp.float32)
    rates = jnp.asarray(frequencies(rotary, dim), wide)[None, None]
    scaling, scale = rotary.scaling, 1.0
    if isinstance(scaling, Dynamic):
        length = jnp.maximum(places.max(1) + 1, scaling.longest).astype(wide)
        growth = scaling.factor * length / scaling.longest - (scaling.factor - 1)
        powers = jnp.asarray(np.arange(0, dim, 2) / (dim - 2), wide)
        rates = rates * growth[:, None, None] ** -powers[None, None]
    elif isinstance(scaling, Yarn):
        scale = scaling.scale
    angles = (places.astype(wide)[:, :, None] * rates)[:, :, None]
    return jnp.cos(angles) * scale, jnp.sin(angles) * scale


def rotate(
    x: Float[Array, "batch tokens heads dim"],
    cos: Float[Array, "#batch tokens 1 half"],
    sin: Float[Array, "#batch tokens 1 half"],
) -> Float[Array, "batch tokens heads dim"]:
    """`(x cos − x' sin, x' cos + x sin)` for the halves x, x' of each head: channel i is rotated with channel i + d/2.

    Files of other libraries may pair channels 2i and 2i + 1 instead, with the rows in another order.

    Su et al., RoFormer: Enhanced Transformer with Rotary Position Embedding, 2021, arXiv 2104.09864.
    """
    first, second = jnp.split(x.astype(cos.dtype), 2, -1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], -1).astype(x.dtype)
