"""GPT-2, a text decoder."""

from typing import Literal

import flax.linen as nn
import jax.numpy as jnp

from jtl.checked import whole
from jtl.model import Model, from_linen
from jtl.nn.layer_norm import LayerNorm
from jtl.nn.sizes import Size, check_size, sized
from jtl.nn.text_inputs import beyond, check_texts, counted, last_token
from jtl.nn.transformer import Block, trunc_normal
from jtl.ops import mean_of_tokens

_SIZES = {
    "distil": Size(768, 6, 12, 3072),
    "small": Size(768, 12, 12, 3072),
    "medium": Size(1024, 24, 16, 4096),
    "large": Size(1280, 36, 20, 5120),
    "xl": Size(1600, 48, 25, 6400),
}


def gpt2(
    size: Literal["distil", "small", "medium", "large", "xl"] | Size,
    *,
    vocabulary: int = 50257,
    positions: int = 1024,
    eps: float = 1e-5,
    embedding_dropout: float = 0.1,
    dropout: float = 0.1,
    attention_dropout: float = 0.1,
    tied: bool = True,
    causal: bool = True,
) -> Model:
    """A GPT-2: embeddings of words and positions through causal pre-norm blocks.

    The input is a dict of `ids` and `mask`, as for `bert`, padded on either side: positions are counted over the tokens
    alone, as in transformers' `generate`. (Without `position_ids` its networks count padding too.) Two entries are
    optional: `places` [batch, tokens], the tokens' rows in `positions/embedding`, which replace the count, and
    `segments` [batch, tokens], ids whose embeddings are added, as for transformers' `token_type_ids`; `types` are
    ignored.

    Features: `stage1`, `stage2`, ... [batch, tokens, width] after each block; `last`, the last of them normalised;
    `pooled` [batch, width], its last token, which has seen the whole text; `mean`, the mean of its tokens; `logits`
    [batch, tokens, vocabulary] of the next word, `last @ words/embedding.T`. Parameters: `words/embedding`,
    `positions/embedding`, `block1/norm1/scale`, `block1/attention/query/kernel`, ..., `norm/scale`.

    Args:
      size: a name, or a `Size`.
      vocabulary: number of ids.
      positions: number of position embeddings; no text is longer.
      eps: epsilon of the layer normalisations.
      embedding_dropout: dropout rate of the embeddings, in training.
      dropout: dropout rate after both branches of each block, in training.
      attention_dropout: dropout rate of the attention weights, in training.
      tied: whether `logits` are computed, with the words' embeddings; without it there are none.
      causal: whether a token sees itself and earlier tokens only; without it all tokens see each other.

    Raises:
      ValueError: for an unknown size or invalid numbers; when called on an input of another kind or on texts that are
        too long.

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> net = jtl.backbones.gpt2(jtl.backbones.Size(8, 1, 2, 16), vocabulary=30)
      >>> x = {"ids": jnp.ones((2, 6), jnp.int32), "mask": jnp.ones((2, 6), bool)}
      >>> out = jax.eval_shape(lambda: net.apply(net.init(jax.random.key(0), x), x, train=False)[0])
      >>> out["last"].shape, out["logits"].shape
      ((2, 6, 8), (2, 6, 30))

    Radford et al., Language Models are Unsupervised Multitask Learners, 2019.
    """
    size = sized(size, _SIZES)
    check_size(size, embedding_dropout=embedding_dropout, dropout=dropout, attention_dropout=attention_dropout)
    whole(1, vocabulary=vocabulary, positions=positions)
    return from_linen(
        _Gpt2(size, vocabulary, positions, eps, embedding_dropout, dropout, attention_dropout, tied, causal)
    )


class _Gpt2(nn.Module):
    size: Size
    vocabulary: int
    positions: int
    eps: float
    embedding_dropout: float
    dropout: float
    attention_dropout: float
    tied: bool
    causal: bool

    @nn.compact
    def __call__(self, x, train: bool):
        ids, mask, segments, places = check_texts(x, ("segments", "places"))
        width, depth, heads, hidden = self.size
        tokens = ids.shape[1]
        if tokens > self.positions:
            raise ValueError(f"texts of {tokens} tokens: this network takes at most {self.positions}; truncate them")
        words = nn.Embed(self.vocabulary, width, embedding_init=trunc_normal, name="words")
        place = nn.Embed(self.positions, width, embedding_init=trunc_normal, name="positions")
        x = words(ids) + place(counted(mask) if places is None else beyond(places))
        x = x if segments is None else x + words(segments)
        x = nn.Dropout(self.embedding_dropout, deterministic=not train)(x)
        seen = mask[:, None, None]
        if self.causal:
            seen &= jnp.tril(jnp.ones((1, 1, tokens, tokens), bool))
        features = {}
        for i in range(1, depth + 1):
            block = Block(
                heads,
                hidden,
                self.eps,
                self.dropout,
                attention_dropout=self.attention_dropout,
                activation=nn.gelu,
                name=f"block{i}",
            )
            x = features[f"stage{i}"] = block(x, train, seen)
        x = LayerNorm(self.eps, name="norm")(x)
        features |= {"last": x, "mean": mean_of_tokens(x, mask), "pooled": last_token(x, mask)}
        return features | {"logits": words.attend(x)} if self.tied else features
