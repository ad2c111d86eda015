"""Text encoders: BERT, RoBERTa, DistilBERT and MiniLM are one network in different sizes."""

from collections.abc import Callable
from typing import Literal, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array

from jtl.model import Model, from_linen
from jtl.nn.layer_norm import LayerNorm
from jtl.nn.sizes import Size, check_size, sized
from jtl.nn.text_inputs import beyond, check_texts
from jtl.nn.transformer import Block, exact_gelu, trunc_normal
from jtl.ops import mean_of_tokens

_SIZES = {
    "tiny": Size(128, 2, 2, 512),
    "mini": Size(256, 4, 4, 1024),
    "small": Size(512, 4, 8, 2048),
    "medium": Size(512, 8, 8, 2048),
    "base": Size(768, 12, 12, 3072),
    "large": Size(1024, 24, 16, 4096),
    "distil": Size(768, 6, 12, 3072),
    "minilm6": Size(384, 6, 12, 1536),
    "minilm12": Size(384, 12, 12, 1536),
}


class Pooler(NamedTuple):
    """A dense layer, as wide as a token, between the first token and the head.

    Args:
      activation: "tanh" in BERT and RoBERTa, "relu" in DistilBERT.
      before: dropout rate of the layer's input, in training; RoBERTa has one.
      after: dropout rate of its output, in training.
    """

    activation: Literal["tanh", "relu"] = "tanh"
    before: float = 0.0
    after: float = 0.0


_TANH = Pooler()


def bert(
    size: Literal["tiny", "mini", "small", "medium", "base", "large", "distil", "minilm6", "minilm12"] | Size,
    *,
    vocabulary: int = 30522,
    positions: int = 512,
    types: int = 2,
    pad: int | None = None,
    pooler: Pooler | None = _TANH,
    eps: float = 1e-12,
    dropout: float = 0.1,
    attention_dropout: float = 0.1,
    out_dropout: float | None = None,
    activation: Callable[[Array], Array] = exact_gelu,
) -> Model:
    """A BERT: embeddings of words, positions and types, normalised, through post-norm transformer blocks.

    The input is a dict, as `jtl.preprocess.text.tokenizer` makes it: integer `ids` [batch, tokens], `mask` [batch,
    tokens], true where there is a token, and `types` [batch, tokens], the number of the text in a pair; without
    `types`, or in a network without an embedding table for them, all tokens have the same type. `segments` are the same
    as `types`, but a network without that table refuses them. `places` [batch, tokens], if given, are the tokens' rows
    in `positions/embedding`; otherwise they are counted.

    Features: `stage1`, `stage2`, ... [batch, tokens, width] after each block; `last`, the last of them; `pooled`
    [batch, width], its first token, through the pooler if there is one; `mean` [batch, width], the mean of its tokens,
    which is MiniLM's sentence embedding. Parameters: `words/embedding`, `positions/embedding`, `types/embedding`,
    `norm/scale`, `block1/attention/query/kernel`, ..., `pooler/kernel`.

    Args:
      size: a name (as in Google's releases; "distil" is DistilBERT, "minilm6" and "minilm12" are MiniLM), or a `Size`.
      vocabulary: number of ids.
      positions: number of position embeddings; no text is longer.
      types: number of types; 0 for no table, as in DistilBERT.
      pad: positions are counted from `pad + 1`, over the ids that are not `pad`, as in RoBERTa; None counts all ids,
        from 0.
      pooler: the layer that makes `pooled`; None for the first token as it is.
      eps: epsilon of the layer normalisations.
      dropout: dropout rate after the embeddings and both branches of each block, in training.
      attention_dropout: dropout rate of the attention weights, in training.
      out_dropout: dropout rate after the attention, if it differs from `dropout`; it is 0 in DistilBERT.
      activation: activation of the blocks' MLPs.

    Raises:
      ValueError: for an unknown size or invalid numbers; when called on an input of another kind or on texts that are
        too long.

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> net = jtl.backbones.bert(jtl.backbones.Size(8, 1, 2, 16), vocabulary=30)
      >>> x = {"ids": jnp.ones((2, 6), jnp.int32), "mask": jnp.ones((2, 6), bool)}
      >>> out = jax.eval_shape(lambda: net.apply(net.init(jax.random.key(0), x), x, train=False)[0])
      >>> out["last"].shape, out["pooled"].shape
      ((2, 6, 8), (2, 8))

    Devlin et al., BERT: Pre-training of Deep Bidirectional Transformers, 2018, arXiv 1810.04805; Liu et al., RoBERTa,
    2019, arXiv 1907.11692; Sanh et al., DistilBERT, 2019, arXiv 1910.01108; Wang et al., MiniLM, 2020, arXiv
    2002.10957.
    """
    size = sized(size, _SIZES)
    first = 0 if pad is None else pad + 1
    if vocabulary < 1 or types < 0 or positions <= first:
        raise ValueError(
            f"vocabulary={vocabulary}, types={types}, positions={positions}: give at least 1 id, 0 types and "
            f"{first + 1} positions, of which {first} are not used"
        )
    rates = {"dropout": dropout, "attention_dropout": attention_dropout}
    rates |= {} if out_dropout is None else {"out_dropout": out_dropout}
    rates |= {} if pooler is None else {"pooler.before": pooler.before, "pooler.after": pooler.after}
    check_size(size, **rates)
    return from_linen(
        _Bert(size, vocabulary, positions, types, pad, pooler, eps, dropout, attention_dropout, out_dropout, activation)
    )


class _Bert(nn.Module):
    size: Size
    vocabulary: int
    positions: int
    types: int
    pad: int | None
    pooler: Pooler | None
    eps: float
    dropout: float
    attention_dropout: float
    out_dropout: float | None
    activation: Callable[[Array], Array]

    @nn.compact
    def __call__(self, x, train: bool):
        ids, mask, types, places = check_texts(x, ("types", "segments", "places") if self.types else ("places",))
        width, depth, heads, hidden = self.size
        longest = self.positions - (0 if self.pad is None else self.pad + 1)
        if ids.shape[1] > longest:
            raise ValueError(f"texts of {ids.shape[1]} tokens: this network takes at most {longest}; truncate them")

        def embed(name, rows, index):
            return nn.Embed(rows, width, embedding_init=trunc_normal, name=name)(index)

        x = embed("words", self.vocabulary, ids) + embed("positions", self.positions, self._places(ids, places))
        if self.types:
            x = x + embed("types", self.types, jnp.zeros_like(ids) if types is None else types)
        x = LayerNorm(self.eps, name="norm")(x)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        features = {}
        for i in range(1, depth + 1):
            block = Block(
                heads,
                hidden,
                self.eps,
                self.dropout,
                attention_dropout=self.attention_dropout,
                out_dropout=self.out_dropout,
                activation=self.activation,
                post_norm=True,
                name=f"block{i}",
            )
            x = features[f"stage{i}"] = block(x, train, mask[:, None, None])
        return features | {"last": x, "mean": mean_of_tokens(x, mask), "pooled": self._pooled(x[:, 0], train)}

    def _places(self, ids: Array, given: Array | None) -> Array:
        if given is not None:
            return beyond(given)
        if self.pad is None:
            return jnp.arange(ids.shape[1])[None]
        real = (ids != self.pad).astype(jnp.int32)
        return jnp.cumsum(real, 1) * real + self.pad

    def _pooled(self, first: Array, train: bool) -> Array:
        if self.pooler is None:
            return first
        name, before, after = self.pooler
        y = nn.Dropout(before, deterministic=not train)(first)
        y = nn.Dense(first.shape[-1], kernel_init=trunc_normal, name="pooler")(y)
        y = jnp.tanh(y) if name == "tanh" else nn.relu(y)
        return nn.Dropout(after, deterministic=not train)(y)
