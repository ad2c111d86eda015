"""One embedding of a text's tokens."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jtl.model import Model, Output, Stats, Variables
from jtl.nn.sizes import one_of
from jtl.nn.two_towers import unit
from jtl.ops import mean_of_tokens
from jtl.typing import Key


def _first(x: Float[Array, "batch tokens width"], mask: Bool[Array, "batch tokens"]) -> Float[Array, "batch width"]:
    del mask
    return x[:, 0]


def _largest(x: Float[Array, "batch tokens width"], mask: Bool[Array, "batch tokens"]) -> Float[Array, "batch width"]:
    return jnp.where(mask[:, :, None], x, -1e9).max(1)


def _root(x: Float[Array, "batch tokens width"], mask: Bool[Array, "batch tokens"]) -> Float[Array, "batch width"]:
    count = jnp.maximum(mask.sum(1, keepdims=True), 1).astype(x.dtype)
    return mean_of_tokens(x, mask) * jnp.sqrt(count)


POOLINGS: dict[str, Callable[[Array, Array], Array]] = {
    "cls": _first,
    "max": _largest,
    "mean": mean_of_tokens,
    "mean_sqrt_len_tokens": _root,
}
"""In the words and the order of sentence-transformers."""


def sentences(backbone: Model, *, pooling: Sequence[str] = ("mean",), normalise: bool = False) -> Model:
    """A network of texts whose `pooled` is an embedding made of the tokens in `last`.

    Args:
      backbone: as `bert`; it takes {"ids", "mask"}.
      pooling: "cls", the first token; "max", the largest value of each channel; "mean"; "mean_sqrt_len_tokens", their
        sum over √n for n tokens. Several stand side by side in the order given. Padding counts for nothing, nor do
        tokens where the input's `prompt` is true (but for "cls").
      normalise: whether the whole has length 1.

    Raises:
      ValueError: for a pooling that is none of these.

    Reimers and Gurevych, Sentence-BERT: Sentence Embeddings using Siamese BERT-Networks, 2019, arXiv 1908.10084.
    """
    ways = [POOLINGS[one_of("pooling", word, POOLINGS)] for word in pooling]
    if not ways:
        raise ValueError(f"pooling={pooling!r}: give at least one of {list(POOLINGS)}")

    def apply(variables: Variables, x: Any, *, train: bool, key: Key | None = None) -> tuple[Output, Stats]:
        features, stats = backbone.apply(variables, _seen(x), train=train, key=key)
        mask = jnp.asarray(x["mask"])
        mask = mask & ~jnp.asarray(x["prompt"]) if "prompt" in x else mask
        pooled = jnp.concatenate([pool(features["last"], mask) for pool in ways], -1)
        return features | {"pooled": unit(pooled) if normalise else pooled}, stats

    return Model(lambda key, x: backbone.init(key, _seen(x)), apply)


def _seen(x: Any) -> Any:
    """The input of the backbone: it sees a prompt, whose tokens are then not pooled."""
    return {name: array for name, array in x.items() if name != "prompt"} if isinstance(x, Mapping) else x
