"""Extractive question answering: the span of a text that answers a question."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jtl import heads, losses
from jtl.heads import Reads
from jtl.preprocess.answer_windows import Windows
from jtl.reads import whole
from jtl.tasks.task import Task

_RULED_OUT = -1e9  # finite, so that a row without any allowed token, such as padding, has gradient 0 instead of NaN


def qa(
    *,
    longest: int = 30,
    unanswerable: bool = False,
    dropout: float = 0.0,
    reads: Reads = whole("last"),
) -> Task:
    """Makes an extractive question-answering task, with softmaxes p(start) and p(end) over the tokens of a text.

    The loss is `(−log p(start) − log p(end)) / 2`. Tokens that cannot bound an answer (of the question, special ones,
    padding) are ruled out. `[CLS]` stays: it stands for "no answer in this window". Inputs and labels come from
    `jtl.preprocess.answer_windows.answer_windows`.

    Args:
      longest: the most tokens of a decoded answer.
      unanswerable: whether to decode "" if "no answer" scores above every span in every window of the question.
      dropout: the dropout rate of the features in training.
      reads: the features that the head reads, [batch, tokens, dim].

    Returns:
      A task with labels {"start": [batch], "end": [batch], "allowed": bool [batch, tokens]} and metric "exact", the
      share of windows whose most probable start and end are both right. `decode(output, windows)` returns the text of
      each question's best answer over all its windows; `jtl.metrics.squad` computes their exact match and F1.

    Raises:
      ValueError: if `longest` is below 1.

    Example:
      >>> import numpy as np, jtl
      >>> output = np.zeros((1, 4, 2))
      >>> output[0, 2] = 5.0
      >>> jtl.tasks.best_span(output[0], np.array([False, False, True, True]), longest=2)
      (2, 2, 10.0)

    Devlin et al., BERT, 2018, arXiv 1810.04805, section 4.2; Rajpurkar et al., SQuAD, 2016, arXiv 1606.05250.
    """
    if longest < 1:
        raise ValueError(f"longest={longest}: an answer has at least one token")

    def decode(output: Any, windows: Windows) -> list[str]:
        return answers(np.asarray(output), windows, longest, unanswerable)

    head = heads.per_position(2, dropout=dropout, reads=reads)
    return Task(head, span_loss, {"exact": exact}, decode)


def span_loss(output: Array, y: Any) -> Array:
    """Computes `(−log p(start) − log p(end)) / 2` of each row, over the allowed tokens.

    Args:
      output: logits [batch, tokens, 2] of start and end.
      y: {"start": [batch], "end": [batch], "allowed": bool [batch, tokens]}.

    Example:
      >>> import jax.numpy as jnp, jtl
      >>> y = {"start": jnp.array([1]), "end": jnp.array([2]), "allowed": jnp.array([[False, True, True]])}
      >>> round(float(jtl.tasks.span_loss(jnp.zeros((1, 3, 2)), y)[0]), 3)
      0.693
    """
    start, end = _ruled(output, y)
    return (losses.cross_entropy(start, y["start"]) + losses.cross_entropy(end, y["end"])) / 2


def exact(output: Array, y: Any) -> Array:
    """Returns 1 if the most probable start and end are both right, else 0; NaN if an allowed token's logit is NaN."""
    start, end = _ruled(output, y)
    right = (start.argmax(-1) == y["start"]) & (end.argmax(-1) == y["end"])
    nan = (jnp.isnan(start) | jnp.isnan(end)).any(-1)  # their argmax would be 0, which stands for "no answer"
    return jnp.where(nan, jnp.nan, right.astype(jnp.float32))


def _ruled(output: Array, y: Any) -> tuple[Array, Array]:
    output = output.astype(jnp.promote_types(output.dtype, jnp.float32))  # in float16, `_RULED_OUT` would be −∞
    logits = jnp.where(jnp.asarray(y["allowed"])[:, :, None], output, _RULED_OUT)
    return logits[..., 0], logits[..., 1]


def best_span(logits: np.ndarray, context: np.ndarray, longest: int) -> tuple[int, int, float]:
    """Returns the span with the highest sum of logits, `argmax_{s ≤ e < s + longest} z_s + z'_e`, ends included.

    Args:
      logits: [tokens, 2], of start and end.
      context: bool [tokens], the tokens that may bound the span.
      longest: the most tokens of the span.

    Returns:
      The first and the last token, and the score; (0, 0, −inf) if no token may bound the span.

    Example:
      >>> import numpy as np, jtl
      >>> logits = np.array([[9.0, 0.0], [2.0, 0.0], [0.0, 3.0]])
      >>> jtl.tasks.best_span(logits, np.array([False, True, True]), longest=2)
      (1, 2, 5.0)
    """
    start, end = (np.where(context, logits[:, i], -np.inf) for i in (0, 1))
    tokens = len(context)
    length = np.arange(tokens)[None] - np.arange(tokens)[:, None] + 1
    scores = np.where((length >= 1) & (length <= longest), start[:, None] + end[None], -np.inf)
    first, last = divmod(int(scores.argmax()), tokens)
    return first, last, float(scores[first, last])


def answers(output: np.ndarray, windows: Windows, longest: int, unanswerable: bool) -> list[str]:
    """Returns every question's best answer over its windows; "" if no span is allowed, or "no answer" is better."""
    best: list[tuple[float, str]] = [(-np.inf, "")] * len(windows.contexts)
    nothing = np.full(len(windows.contexts), np.inf)
    for logits, context, offsets, question, cls in zip(
        output, windows.context, windows.offsets, windows.question, windows.cls, strict=True
    ):
        first, last, score = best_span(logits, context, longest)
        nothing[question] = min(nothing[question], float(logits[cls].sum()))
        if score > best[question][0]:
            text = windows.contexts[question][offsets[first, 0] : offsets[last, 1]]
            best[question] = (score, text)
    return ["" if unanswerable and null > score else text for (score, text), null in zip(best, nothing, strict=True)]
