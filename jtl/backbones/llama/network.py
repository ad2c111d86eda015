"""Llama, Mistral, Qwen2 and Qwen3, text decoders."""

from typing import Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jtl.checked import whole
from jtl.model import Model, from_linen
from jtl.nn.grouped_attention import GroupedAttention
from jtl.nn.layers import Dense
from jtl.nn.rms_norm import RMSNorm
from jtl.nn.rotary import Rotary, turns
from jtl.nn.sizes import Size, check_size
from jtl.nn.text_inputs import check_texts, counted, last_token
from jtl.nn.transformer import trunc_normal
from jtl.ops import computed_once, mean_of_tokens


class LlamaParts(NamedTuple):
    """The options in which the networks of the family differ.

    Args:
      groups: number of heads of keys and values; None for as many as of queries.
      head: width of a head; None for the width of a token divided by the number of heads.
      bias: whether queries, keys and values have biases, as in Qwen2.
      out_bias: whether the attention's output has a bias.
      mlp_bias: whether the MLP's layers have biases.
      head_norm: whether each head's queries and keys are normalised, as in Qwen3.
      logits: what computes them: the layer "lm_head", or, if weights are tied, the embeddings of "words"; None for no
        `logits`.
      causal: whether a token sees itself and earlier tokens only; without it all tokens see each other, as in networks
        that embed texts.
    """

    groups: int | None = None
    head: int | None = None
    bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    head_norm: bool = False
    logits: Literal["lm_head", "words"] | None = "lm_head"
    causal: bool = True


_PLAIN = LlamaParts()
_ROTARY = Rotary()


def llama(
    size: Size,
    *,
    vocabulary: int = 32000,
    rotary: Rotary = _ROTARY,
    parts: LlamaParts = _PLAIN,
    eps: float = 1e-6,
    attention_dropout: float = 0.0,
) -> Model:
    """A Llama: embeddings of words through causal pre-norm blocks with rotary position embeddings.

    The input is a dict of `ids` and `mask`, as for `bert`, padded on either side: places are counted over the tokens
    alone, as in transformers' `generate`. An optional `places` [batch, tokens] replaces the count; `types` are ignored.

    Features: `stage1`, `stage2`, ... [batch, tokens, width] after each block; `last`, the last of them normalised;
    `pooled` [batch, width], its last token, which has seen the whole text; `mean`, the mean of its tokens; `logits`
    [batch, tokens, vocabulary] of the next word. Parameters: `words/embedding`, `block1/norm1/scale`,
    `block1/attention/query/kernel`, ..., `block1/mlp/gate/kernel`, ..., `norm/scale`, `lm_head/kernel`.

    Args:
      size: width, depth and heads; `hidden` is the width of the gated MLP.
      vocabulary: number of ids.
      rotary: the wavelengths, and how they are stretched for long texts.
      parts: the options in which Llama, Qwen2 and Qwen3 differ.
      eps: epsilon of the normalisations.
      attention_dropout: dropout rate of the attention weights, in training.

    Raises:
      ValueError: for invalid numbers; when called on an input of another kind.

    Example:
      >>> import jax, numpy as np
      >>> from jtl import backbones
      >>> net = backbones.llama(backbones.Size(8, 2, 4, 16), vocabulary=30)
      >>> x = {"ids": np.ones((1, 5), np.int32), "mask": np.ones((1, 5), bool)}
      >>> features, _ = net.apply(net.init(jax.random.key(0), x), x, train=False)
      >>> features["last"].shape, features["logits"].shape
      ((1, 5, 8), (1, 5, 30))

    Touvron et al., LLaMA: Open and Efficient Foundation Language Models, 2023, arXiv 2302.13971; Grattafiori et al.,
    The Llama 3 Herd of Models, 2024, arXiv 2407.21783; Jiang et al., Mistral 7B, 2023, arXiv 2310.06825; Yang et al.,
    Qwen2 Technical Report, 2024, arXiv 2407.10671; Yang et al., Qwen3 Technical Report, 2025, arXiv 2505.09388.
    """
    groups = size.heads if parts.groups is None else parts.groups
    if groups < 1 or size.heads % groups:
        raise ValueError(f"heads={size.heads} of queries are no multiple of groups={groups} of keys and values")
    width = size.width if parts.head is None else size.heads * parts.head
    check_size(size._replace(width=width), attention_dropout=attention_dropout)
    head = width // size.heads
    if head % 2 or head < 2:
        raise ValueError(f"heads of width {head} cannot be rotated, which takes an even width: change width or heads")
    whole(1, vocabulary=vocabulary)
    return from_linen(_Llama(size, vocabulary, rotary, parts, groups, head, eps, attention_dropout))


class _Llama(nn.Module):
    size: Size
    vocabulary: int
    rotary: Rotary
    parts: LlamaParts
    groups: int
    head: int
    eps: float
    attention_dropout: float

    @nn.compact
    def __call__(self, x, train: bool):
        ids, mask, _, places = check_texts(x, ("places",))
        tokens = ids.shape[1]
        words = nn.Embed(self.vocabulary, self.size.width, embedding_init=trunc_normal, name="words")
        x = words(ids)
        cos, sin = turns(self.rotary, counted(mask) if places is None else places, self.head, x.dtype)
        seen = mask[:, None, None]
        if self.parts.causal:
            seen &= jnp.tril(jnp.ones((1, 1, tokens, tokens), bool))
        features = {}
        for i in range(1, self.size.depth + 1):
            block = _Block(
                self.size, self.parts, self.groups, self.head, self.eps, self.attention_dropout, name=f"block{i}"
            )
            x = features[f"stage{i}"] = block(x, train, seen, cos, sin)
        x = RMSNorm(self.eps, name="norm")(x)
        features |= {"last": x, "mean": mean_of_tokens(x, mask), "pooled": last_token(x, mask)}
        if self.parts.logits == "words":
            features["logits"] = words.attend(x)
        elif self.parts.logits == "lm_head":
            dense = Dense(self.vocabulary, use_bias=False, kernel_init=trunc_normal, name="lm_head")
            features["logits"] = dense(x)
        return features


class _Block(nn.Module):
    size: Size
    parts: LlamaParts
    groups: int
    head: int
    eps: float
    attention_dropout: float

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch tokens width"],
        train: bool,
        mask: Bool[Array, "batch 1 #tokens tokens"],
        cos: Float[Array, "#batch tokens 1 half"],
        sin: Float[Array, "#batch tokens 1 half"],
    ) -> Float[Array, "batch tokens width"]:
        parts = self.parts
        attention = GroupedAttention(
            self.size.heads,
            self.groups,
            self.head,
            parts.bias,
            parts.out_bias,
            self.eps if parts.head_norm else None,
            self.attention_dropout,
            name="attention",
        )
        x = computed_once(x + attention(RMSNorm(self.eps, name="norm1")(x), train, mask, cos, sin))
        return computed_once(x + _Mlp(self.size.hidden, parts.mlp_bias, name="mlp")(RMSNorm(self.eps, name="norm2")(x)))


class _Mlp(nn.Module):
    """`down(silu(gate(x)) · up(x))`, with `gate` and `up` as separate layers, as files and adapters have them."""

    hidden: int
    bias: bool

    @nn.compact
    def __call__(self, x: Float[Array, "batch tokens width"]) -> Float[Array, "batch tokens width"]:
        def dense(name, width):
            return Dense(width, use_bias=self.bias, kernel_init=trunc_normal, name=name)

        y = jax.nn.silu(dense("gate", self.hidden)(x)) * dense("up", self.hidden)(x)
        return dense("down", x.shape[-1])(y)
