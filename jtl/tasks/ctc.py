"""Speech recognition by characters, with connectionist temporal classification."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Integer

from jtl import heads, metrics
from jtl.heads import Reads
from jtl.preprocess.characters import Alphabet
from jtl.reads import Masked, whole
from jtl.tasks.task import Task


def ctc(
    alphabet: Alphabet,
    *,
    dropout: float = 0.0,
    reads: Reads = whole("last", masked=True),
) -> Task:
    """Makes a CTC task: the loss is `−log p(y | x)`, where p sums over all alignments of characters with frames.

    Number 0 is the blank, which may occur between characters, and also pads the labels: `alphabet.ids(texts)` returns
    such labels.

    Args:
      alphabet: the characters, such as `jtl.preprocess.characters.Alphabet("abc ")`.
      dropout: the dropout rate of the features in training.
      reads: the features that the head reads, frames as `Masked`: the sounds need a mask.

    Returns:
      A task with labels y [batch, characters]; its loss is in nats per sound. The metric "cer" is the edit distance
      between the best path and the label, divided by the label's characters; "too_long" is the share of sounds whose
      label does not fit in their frames, from which nothing is learned. `decode(output)` returns the texts of the best
      paths.

    Example:
      >>> import numpy as np, jtl
      >>> from jtl.preprocess.characters import Alphabet
      >>> task = jtl.tasks.ctc(Alphabet("ab"))
      >>> frames = jtl.reads.Masked(np.eye(3)[np.array([[1, 1, 0, 1, 2]])], np.ones((1, 5), bool))
      >>> task.decode(frames)
      ['aab']

    Graves et al., Connectionist Temporal Classification, 2006.
    """

    def decode(output: Masked) -> list[str]:
        return alphabet.texts(jax.device_get(best_path(jnp.asarray(output.values), jnp.asarray(output.mask))))

    head = heads.per_position(len(alphabet) + 1, dropout=dropout, reads=reads)
    errors = metrics.error_rate()
    cer = errors._replace(
        sums=lambda output, y, weights: errors.sums(best_path(output.values, output.mask), y, weights)
    )
    return Task(head, ctc_loss, {"cer": cer, "too_long": _too_long}, decode)


def ctc_loss(output: Masked, y: Any) -> Array:
    """Computes the CTC loss of each row, `−log p(y | x)`, in nats, in float32 (float64 if the logits are).

    A label needs one frame per character, and one between two equal characters. If it does not fit in its frames, it
    has no path: its loss is 0 and has no gradient, as with torch's `zero_infinity=True`.

    Args:
      output: logits [batch, frames, 1 + characters], and the mask of the frames that belong to the sound.
      y: integers [batch, characters], 0 for padding at the end.

    Returns:
      [batch]; NaN for a label that has a number outside the alphabet, or a 0 before its end.

    Example:
      >>> import jax.numpy as jnp, jtl
      >>> frames = jtl.reads.Masked(jnp.zeros((1, 2, 3)), jnp.ones((1, 2), bool))
      >>> round(float(jnp.exp(-jtl.tasks.ctc_loss(frames, jnp.array([[1]])))[0]), 3)  # 3 of 9 paths
      0.333

    Graves et al., Connectionist Temporal Classification, 2006.
    """
    logits, y = jnp.asarray(output.values), jnp.asarray(y)
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    padding = (1 - jnp.asarray(output.mask)).astype(logits.dtype)
    values = optax.ctc_loss(logits, padding, y, (y == 0).astype(logits.dtype))
    known = ((y >= 0) & (y < logits.shape[-1])).all(-1) & ~((y[:, :-1] == 0) & (y[:, 1:] != 0)).any(-1)
    return jnp.where(known, jnp.where(_too_long(output, y) > 0, 0.0, values), jnp.nan)


def _too_long(output: Masked, y: Any) -> Array:
    """Returns 1 for each row whose label does not fit in its frames, else 0."""
    y = jnp.asarray(y)
    least = (y != 0).sum(-1) + ((y[:, 1:] == y[:, :-1]) & (y[:, 1:] != 0)).sum(-1)
    return (least > (jnp.asarray(output.mask) > 0).sum(-1)).astype(jnp.float32)


def best_path(
    logits: Float[Array, "batch frames characters"], mask: Bool[Array, "batch frames"]
) -> Integer[Array, "batch frames"]:
    """Returns the most probable character of every frame, `argmax_c z_tc`, without repeats and blanks, padded with 0.

    Args:
      logits: [batch, frames, 1 + characters].
      mask: which frames belong to the sound.

    Example:
      >>> import jax.numpy as jnp, jtl
      >>> frames = jnp.eye(3)[jnp.array([[1, 1, 0, 1, 2]])]
      >>> jtl.tasks.best_path(frames, jnp.ones((1, 5), bool)).tolist()
      [[1, 1, 2, 0, 0]]
    """
    found = jnp.where(mask, logits.argmax(-1), 0)
    before = jnp.pad(found, ((0, 0), (1, 0)))[:, :-1]
    kept = (found != 0) & (found != before)
    place = jnp.where(kept, jnp.cumsum(kept, 1) - 1, found.shape[1])  # one beyond the end is dropped
    rows = jnp.broadcast_to(jnp.arange(found.shape[0])[:, None], found.shape)
    return jnp.zeros_like(found).at[rows, place].set(found, mode="drop")
