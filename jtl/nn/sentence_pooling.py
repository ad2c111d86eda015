"""Pooling of a text's tokens into one embedding."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jtl.model import Model, Output, Stats, Variables
from jtl.nn.sizes import one_of
from jtl.nn.text_inputs import counted, last_token
from jtl.nn.two_towers import unit
from jtl.ops import mean_of_tokens
from jtl.typing import Key

_Tokens = Float[Array, "batch tokens width"]
_Mask = Bool[Array, "batch tokens"]
_Rows = Float[Array, "batch width"]


def _first(x: _Tokens, pooled: _Mask, mask: _Mask) -> _Rows:
    del mask
    return jnp.take_along_axis(x, pooled.argmax(1)[:, None, None], 1)[:, 0]


def _largest(x: _Tokens, pooled: _Mask, mask: _Mask) -> _Rows:
    del mask
    return jnp.where(pooled[:, :, None], x, -1e9).max(1)


def _mean(x: _Tokens, pooled: _Mask, mask: _Mask) -> _Rows:
    del mask
    return mean_of_tokens(x, pooled)


def _root(x: _Tokens, pooled: _Mask, mask: _Mask) -> _Rows:
    del mask
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    count = jnp.maximum(pooled.sum(1, keepdims=True), 1)
    return (mean_of_tokens(wide, pooled) * jnp.sqrt(count.astype(wide.dtype))).astype(x.dtype)


def _later(x: _Tokens, pooled: _Mask, mask: _Mask) -> _Rows:
    """Weights tokens by their number in the text, which stays the same if those of a prompt are left out."""
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    weights = jnp.where(pooled, counted(mask) + 1, 0)[:, :, None].astype(wide.dtype)
    return ((wide * weights).sum(1) / jnp.maximum(weights.sum(1), 1)).astype(x.dtype)


def _last(x: _Tokens, pooled: _Mask, mask: _Mask) -> _Rows:
    del mask
    return last_token(x, pooled)


POOLINGS: dict[str, Callable[[Array, Array, Array], Array]] = {
    "cls": _first,
    "max": _largest,
    "mean": _mean,
    "mean_sqrt_len_tokens": _root,
    "weightedmean": _later,
    "lasttoken": _last,
}
"""Functions of (tokens, pooled tokens, all tokens), under the names and in the order of sentence-transformers."""


def sentences(backbone: Model, *, pooling: Sequence[str] = ("mean",), normalise: bool = False) -> Model:
    """A text network whose `pooled` is an embedding made from the tokens in `last`.

    Args:
      backbone: a text network such as `bert`, on {"ids", "mask"}.
      pooling: "cls", the first token; "lasttoken", the last; "max", the largest value of each channel; "mean";
        "mean_sqrt_len_tokens", their sum over √n for n tokens; "weightedmean", their mean weighted by 1, 2, ..., n.
        Several are concatenated in the order given. Padding on either side is ignored, and so are tokens where the
        input's `prompt` is true.
      normalise: whether the embedding is scaled to length 1.

    Raises:
      ValueError: for an unknown pooling.

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> bert = jtl.backbones.bert(jtl.backbones.Size(8, 1, 2, 16), vocabulary=30)
      >>> net = jtl.backbones.sentences(bert, pooling=("cls", "mean"), normalise=True)
      >>> x = {"ids": jnp.ones((2, 6), jnp.int32), "mask": jnp.ones((2, 6), bool)}
      >>> out = jax.eval_shape(lambda: net.apply(net.init(jax.random.key(0), x), x, train=False)[0])
      >>> out["pooled"].shape
      (2, 16)

    Reimers and Gurevych, Sentence-BERT: Sentence Embeddings using Siamese BERT-Networks, 2019, arXiv 1908.10084;
    Muennighoff, SGPT: GPT Sentence Embeddings for Semantic Search, 2022, arXiv 2202.08904 ("weightedmean").
    """
    ways = [POOLINGS[one_of("pooling", word, POOLINGS)] for word in pooling]
    if not ways:
        raise ValueError(f"pooling={pooling!r}: give at least one of {list(POOLINGS)}")

    def apply(variables: Variables, x: Any, *, train: bool, key: Key | None = None) -> tuple[Output, Stats]:
        features, stats = backbone.apply(variables, _seen(x), train=train, key=key)
        mask = jnp.asarray(x["mask"])
        counts = mask & ~jnp.asarray(x["prompt"]) if "prompt" in x else mask
        pooled = jnp.concatenate([pool(features["last"], counts, mask) for pool in ways], -1)
        return features | {"pooled": unit(pooled) if normalise else pooled}, stats

    return Model(lambda key, x: backbone.init(key, _seen(x)), apply)


def _seen(x: Any) -> Any:
    """The input of the backbone, which sees a prompt although its tokens are not pooled."""
    return {name: array for name, array in x.items() if name != "prompt"} if isinstance(x, Mapping) else x
