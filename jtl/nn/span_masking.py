"""Random spans of a sequence, which SpecAugment hides in training."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from jtl.typing import Key


class Spans(NamedTuple):
    """How much of a sequence is hidden: because spans may overlap, at most `rate`, unless `least` demands more.

    Args:
      rate: share of the steps.
      length: number of steps in a span.
      least: least number of spans in a sequence that has room for them.
    """

    rate: float
    length: int = 10
    least: int = 0


def check_spans(**given: Spans) -> None:
    """Raises a ValueError with the name of invalid spans."""
    for name, spans in given.items():
        if not 0 <= spans.rate <= 1 or spans.length < 1 or spans.least < 0:
            raise ValueError(f"{name}={spans}: give a rate from 0 to 1, a length of at least 1, a least of at least 0")


def span_mask(key: Key, spans: Spans, lengths: Int[Array, "batch"], steps: int) -> Bool[Array, "batch steps"]:
    """A mask that is true in random spans of each sequence.

    Of n steps `max(⌊rate n / length + u⌋, least)` spans are hidden, with u uniform in [0, 1), or as many as there is
    room for. Their first steps are drawn without replacement from those at which a whole span fits; if none fits,
    nothing is hidden.

    Args:
      key: key of the draw.
      spans: how many there are, and how long.
      lengths: number of steps of each sequence; padding comes after them.
      steps: number of steps of the arrays, padding included.

    Park et al., SpecAugment, 2019, arXiv 1904.08779; Baevski et al., wav2vec 2.0, 2020, arXiv 2006.11477.
    """
    most = min(max(int(spans.rate * steps / spans.length + 1), spans.least), steps // spans.length)
    if most == 0:
        return jnp.zeros((lengths.shape[0], steps), bool)
    of_counts, of_starts = jax.random.split(key)
    starts = jnp.maximum(lengths - (spans.length - 1), 0)  # the number of steps at which a span may begin
    rounding = jax.random.uniform(of_counts, lengths.shape)
    counts = jnp.floor(spans.rate * lengths / spans.length + rounding).astype(starts.dtype)
    counts = jnp.minimum(jnp.clip(counts, spans.least, most), starts)
    step = jnp.arange(steps)
    draw = jax.random.uniform(of_starts, (lengths.shape[0], steps))
    _, first = jax.lax.top_k(jnp.where(step[None] < starts[:, None], draw, -1.0), most)
    since = step[None, None] - first[:, :, None]
    chosen = jnp.arange(most)[None] < counts[:, None]
    return ((since >= 0) & (since < spans.length) & chosen[:, :, None]).any(1)
