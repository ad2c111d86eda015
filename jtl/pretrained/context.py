"""Context vectors in place of the first words of a text, at the embedding layer of CLIP's or SigLIP's text tower."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jtl._tracing import scope
from jtl.backbones.clip.config import ClipTextConfig
from jtl.checked import whole
from jtl.model import ADAPTER, Variables
from jtl.nn.text_tower import WORDS
from jtl.nn.two_towers import unit
from jtl.pretrained.load import Pretrained
from jtl.transform.intercept import Call, on_outputs
from jtl.typing import Key, Params


def first_word(text: Pretrained) -> int:
    """The place of a text's first word: after CLIP's start token; SigLIP has none."""
    return int(isinstance(text.config, ClipTextConfig))


def check_context(text: Pretrained, texts: Any, shape: tuple[int, ...]) -> None:
    """Checks that a context [tokens, width] or [classes, tokens, width] fits these texts.

    Raises:
      ValueError: for another shape, another number of classes, no tokens, or a text that has no words after it.
    """
    ids = np.asarray(texts["ids"])
    width = text.variables.params["backbone"]["token"].shape[1]
    if ids.ndim != 2 or len(shape) not in (2, 3) or shape[-1] != width or shape[:-2] not in ((), (len(ids),)):
        raise ValueError(
            f"a context of shape {shape} and ids of shape {ids.shape}: give [tokens, {width}] or"
            f" [classes, tokens, {width}], and one text a class, [classes, tokens]"
        )
    count, first = shape[-2], first_word(text)
    whole(1, count=count)
    lengths = np.asarray(texts.get("mask", np.ones(ids.shape, bool))).sum(1)
    # The last token that counts is the end of the text, which pools it.
    if (short := int(lengths.min())) < first + count + 2:
        raise ValueError(
            f"count={count} of context, and the shortest text has {short} tokens: begin each text with as many words,"
            " one token each, before the name of its class"
        )


def text_embeddings(
    text: Pretrained, params: Params, x: Any, context: Any = None, *, train: bool = False, key: Key | None = None
) -> Float[Array, "texts width"]:
    """The embeddings of texts at length 1, with the context in place of their first words.

    Args:
      text: the text tower of `towers`.
      params: the tower's parameters.
      x: {"ids", "mask"}, each [texts, tokens].
      context: [tokens, width] for all texts, or [texts, tokens, width]; None for the words themselves.
      train: whether the tower runs in training mode.
      key: key for its dropout.
    """
    if context is None:
        features = text.backbone.apply(Variables(params, {}), x, train=train, key=key)[0]
        return unit(features["pooled"])
    first = first_word(text)

    def change(y: Any, call: Call) -> Any:
        own = call.variables.params[ADAPTER][WORDS].astype(y.dtype)
        own = jnp.broadcast_to(own if own.ndim == 3 else own[None], (len(y), *own.shape[-2:]))
        return jnp.concatenate([y[:, :first], own, y[:, first + own.shape[1] :]], 1)

    tower = on_outputs(text.backbone, WORDS, change, "the text tower has no embeddings of words to replace")
    with scope.within("text"):
        given = Variables({**params, ADAPTER: {WORDS: context}}, {})
        return unit(tower.apply(given, x, train=train, key=key)[0]["pooled"])
