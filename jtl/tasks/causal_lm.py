"""Next-token language modelling."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from jtl import heads, losses, metrics
from jtl.heads import Reads
from jtl.metrics.accumulate import Metric, mean
from jtl.reads import whole
from jtl.tasks.task import Task

IGNORE = -100
"""The label of positions after which no token is predicted: padding, the last token, a prompt."""


def causal_lm(
    vocabulary: int | None,
    *,
    bias: bool = False,
    reads: Reads | None = None,
) -> Task:
    """Makes a language-modelling task: `−log p(x_{t+1} | x_1 … x_t)`, averaged over positions with a next token.

    Labels come from `jtl.preprocess.next_tokens.next_tokens`: the label of a position is the token that follows it.

    Args:
      vocabulary: the number of token ids; None for a backbone that computes its own `logits`, for example because its
        output weights are tied to its embeddings.
      bias: whether the head has a bias.
      reads: the features that the head reads; None for `last` at every token, or without a vocabulary, `logits`.

    Returns:
      A task with labels y [batch, tokens], and metrics "accuracy" and "perplexity", `exp` of the mean loss.
      `decode(output, mask)` returns the most probable next id after each row's last token, [rows].

    Example:
      >>> import numpy as np, jtl
      >>> logits = np.eye(4)[np.array([[3, 1, 2]])]
      >>> jtl.tasks.causal_lm(4).decode(logits, np.array([[True, True, False]])).tolist()
      [1]
    """
    if vocabulary is None:
        head = heads.identity(reads=whole("logits") if reads is None else reads)
    else:
        head = heads.per_position(vocabulary, bias=bias, reads=whole("last") if reads is None else reads)
    judged = {"accuracy": metrics.accuracy, "perplexity": Metric(_nats, _exp)}
    return Task(head, losses.cross_entropy, judged, _next, IGNORE)


def _nats(output: Any, y: Any, weights: Any) -> Any:
    return mean(losses.cross_entropy(output, y), weights)


def _exp(nats: Any) -> Any:
    return jnp.exp(nats.value)


def _next(output: Any, mask: Any) -> np.ndarray:
    output, mask = np.asarray(output), np.asarray(mask) > 0
    last = mask.shape[1] - 1 - mask[:, ::-1].argmax(1)
    return output[np.arange(len(output)), last].argmax(-1)
