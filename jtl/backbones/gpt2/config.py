"""GPT-2."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from jtl import heads
from jtl.backbones.config import Config, Depth, Range, Rate, Vocabulary, Whole
from jtl.backbones.embedded import EmbeddingConfig, embedded, nameable
from jtl.backbones.family import Family, by_preset, sentence
from jtl.backbones.gpt2 import names as maps
from jtl.backbones.gpt2.network import gpt2
from jtl.model import Model
from jtl.nn.sizes import Size

_PRESETS = {
    "gpt2": {},
    "gpt2-medium": {"n_embd": 1024, "n_layer": 24, "n_head": 16},
    "gpt2-large": {"n_embd": 1280, "n_layer": 36, "n_head": 20},
    "gpt2-xl": {"n_embd": 1600, "n_layer": 48, "n_head": 25},
    "distilgpt2": {"n_layer": 6},
}
_Token = Annotated[int, Range(0, 1 << 24)]


class Gpt2Config(
    Config,
    model_type="gpt2",
    aliases={
        "hidden_size": "n_embd",
        "num_hidden_layers": "n_layer",
        "num_attention_heads": "n_head",
        "max_position_embeddings": "n_positions",
    },
):
    """The config of a GPT-2."""

    vocab_size: Vocabulary = 50257
    n_positions: Whole = 1024
    n_embd: Whole = 768
    n_layer: Depth = 12
    n_head: Whole = 12
    n_inner: Annotated[int, Range(1, 1 << 18)] | None = None
    activation_function: Literal["gelu_new"] = "gelu_new"
    embd_pdrop: Rate = 0.1
    resid_pdrop: Rate = 0.1
    attn_pdrop: Rate = 0.1
    layer_norm_epsilon: Rate = 1e-5
    scale_attn_weights: Literal[True] = True
    scale_attn_by_inverse_layer_idx: Literal[False] = False
    add_cross_attention: Literal[False] = False
    is_causal: bool = True
    tie_word_embeddings: bool = True
    eos_token_id: _Token | None = 50256
    pad_token_id: _Token | None = None
    embedding: EmbeddingConfig | None = None

    @classmethod
    def _fill(cls, given: Mapping[str, Any], naming: str) -> Mapping[str, Any]:
        # transformers' classifier finds the last token by it; texts are padded with the token that ends them.
        end = given.get("eos_token_id", cls.eos_token_id)
        return {**given, "pad_token_id": end} if given.get("pad_token_id") is None else given


def _backbone(config: Gpt2Config) -> Model:
    return gpt2(
        Size(config.n_embd, config.n_layer, config.n_head, config.n_inner or 4 * config.n_embd),
        vocabulary=config.vocab_size,
        positions=config.n_positions,
        eps=config.layer_norm_epsilon,
        embedding_dropout=config.embd_pdrop,
        dropout=config.resid_pdrop,
        attention_dropout=config.attn_pdrop,
        tied=config.tie_word_embeddings,
        causal=config.is_causal,
    )


FAMILIES = (
    Family(
        config=Gpt2Config,
        names=", ".join(_PRESETS),
        named=by_preset("gpt2", _PRESETS),
        backbone=lambda config: embedded(_backbone(config), config.embedding),
        example=lambda config: sentence(min(128, config.n_positions)),
        tables=lambda config: nameable(
            {"transformers": maps.transformers(config.tie_word_embeddings)}, config.embedding
        ),
        architecture="GPT2ForSequenceClassification",
        # The language model has no parameters of its own if its last layer is the words' embedding.
        bare=lambda config: "GPT2LMHeadModel" if config.tie_word_embeddings else "GPT2Model",
        head=lambda config, classes: heads.linear(classes, bias=False),
        depth=("n_layer",),
    ),
)
