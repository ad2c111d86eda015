"""Labels for language modelling: the token after each token."""

from typing import Any

import numpy as np


def next_tokens(ids: Any, mask: Any, *, prompt: Any = None, ignore: int = -100) -> np.ndarray:
    """Returns the labels `y_t = x_{t+1}` wherever both are tokens of the text.

    Args:
      ids: [texts, tokens].
      mask: [texts, tokens], true where there is a token; padding may be on either side.
      prompt: [texts], how many of each text's first tokens are not learned, so that only the answer is. None for 0.
      ignore: the label where there is nothing to predict.

    Returns:
      int32 [texts, tokens].

    Raises:
      ValueError: if ids and mask differ in shape, or are not [texts, tokens].

    Example:
      >>> import numpy as np
      >>> from jtl.preprocess.next_tokens import next_tokens
      >>> next_tokens(np.array([[5, 6, 7, 0]]), np.array([[True, True, True, False]])).tolist()
      [[6, 7, -100, -100]]
    """
    ids, mask = np.asarray(ids), np.asarray(mask) > 0
    if ids.shape != mask.shape or ids.ndim != 2:
        raise ValueError(f"ids of shape {ids.shape} and mask of shape {mask.shape}: give both [texts, tokens]")
    learned = mask[:, :-1] & mask[:, 1:]
    if prompt is not None:
        place = np.cumsum(mask, 1)[:, 1:] - 1  # of the next token among the text's
        learned &= place >= np.asarray(prompt)[:, None]
    found = np.full(ids.shape, ignore, np.int32)
    found[:, :-1][learned] = ids[:, 1:][learned]
    return found
