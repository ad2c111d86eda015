"""GPT-2."""

from collections.abc import Mapping
from typing import Any

from jtl import backbones, heads
from jtl.backbones.bert.config import sentence
from jtl.backbones.family import Config, Family, changed, must_be, own_words, real, whole
from jtl.backbones.gpt2 import names as maps
from jtl.model import Model

_PRESETS = {
    "gpt2": {},
    "gpt2-medium": {"n_embd": 1024, "n_layer": 24, "n_head": 16},
    "gpt2-large": {"n_embd": 1280, "n_layer": 36, "n_head": 20},
    "gpt2-xl": {"n_embd": 1600, "n_layer": 48, "n_head": 25},
    "distilgpt2": {"n_layer": 6},
}

_WORDS = {
    "hidden_size": "n_embd",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "max_position_embeddings": "n_positions",
}
"""transformers' common words -> GPT-2's own."""


def _named(name: str, changes: Mapping[str, Any]) -> Config | None:
    return changed({"model_type": "gpt2", **_PRESETS[name]}, changes, {}) if name in _PRESETS else None


def _complete(config: Config, naming: str) -> Config:
    usual = {
        "vocab_size": 50257,
        "n_positions": 1024,
        "n_embd": 768,
        "n_layer": 12,
        "n_head": 12,
        "n_inner": None,
        "activation_function": "gelu_new",
        "embd_pdrop": 0.1,
        "resid_pdrop": 0.1,
        "attn_pdrop": 0.1,
        "layer_norm_epsilon": 1e-5,
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "add_cross_attention": False,
        "tie_word_embeddings": True,
        "eos_token_id": 50256,
    }
    config = {**usual, **own_words(config, _WORDS)}
    if config.get("pad_token_id") is None:
        # By it transformers' classifier finds the last token; texts are padded with the token that ends them.
        config["pad_token_id"] = config["eos_token_id"]
    whole(config, "n_positions", "n_embd", "n_head")
    whole(config, "vocab_size", most=1 << 24)
    whole(config, "n_layer", most=256)
    if config["n_inner"] is not None:
        whole(config, "n_inner", most=1 << 18)
    for name in ("embd_pdrop", "resid_pdrop", "attn_pdrop", "layer_norm_epsilon"):
        real(config, name, 1.0)
    return config


def _backbone(config: Config) -> Model:
    must_be(config, activation_function="gelu_new", scale_attn_weights=True, add_cross_attention=False)
    must_be(config, scale_attn_by_inverse_layer_idx=False)
    width = config["n_embd"]
    return backbones.gpt2(
        backbones.Size(width, config["n_layer"], config["n_head"], config["n_inner"] or 4 * width),
        vocabulary=config["vocab_size"],
        positions=config["n_positions"],
        eps=config["layer_norm_epsilon"],
        embedding_dropout=config["embd_pdrop"],
        dropout=config["resid_pdrop"],
        attention_dropout=config["attn_pdrop"],
    )


GPT2 = Family(
    names=", ".join(_PRESETS),
    named=_named,
    complete=_complete,
    backbone=_backbone,
    example=lambda config: sentence(min(128, config["n_positions"])),
    tables=lambda config: {"transformers": maps.transformers(config["tie_word_embeddings"] is True)},
    usual=lambda name, config: None,
    architecture="GPT2ForSequenceClassification",
    # The model of language has no parameters of its own where its last layer is the words' embedding.
    bare=lambda config: "GPT2LMHeadModel" if config["tie_word_embeddings"] is True else "GPT2Model",
    head=lambda config, classes: heads.linear(classes, bias=False),
    depth=("n_layer",),
)
