"""Encoders of text: BERT (and MiniLM), RoBERTa, DistilBERT."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from jtl import backbones
from jtl.backbones.bert import names as maps
from jtl.backbones.family import HEADLESS, PLAIN, Config, Family, changed, must_be, own_words, real, whole
from jtl.model import Model
from jtl.nn.transformer import exact_gelu
from jtl.weights.formats.errors import show
from jtl.weights.mapping.rules import Rule

_ACTIVATIONS = {"gelu": exact_gelu, "gelu_new": nn.gelu, "gelu_pytorch_tanh": nn.gelu, "relu": nn.relu}
_LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
_MINI = {"hidden_size": 384, "num_attention_heads": 12, "intermediate_size": 1536}
_ROBERTA = {"max_position_embeddings": 514, "type_vocab_size": 1, "layer_norm_eps": 1e-5}
# DistilBERT's own words; its configs may say the first three by BERT's.
_MEASURES = {"hidden_size": "dim", "num_hidden_layers": "n_layers", "num_attention_heads": "n_heads"}
_WORDS = {
    **_MEASURES,
    "intermediate_size": "hidden_dim",
    "hidden_act": "activation",
    "hidden_dropout_prob": "dropout",
    "attention_probs_dropout_prob": "attention_dropout",
    "classifier_dropout": "seq_classif_dropout",
}


def _family(
    kind: Literal["bert", "roberta", "distilbert"],
    architecture: str,
    table: Callable[[bool], list[Rule]],
    presets: Mapping[str, Mapping[str, Any]],
    usual: Mapping[str, Any],
    words: Mapping[str, str],
) -> Family:
    """One of the three.

    Args:
      kind: the `model_type`.
      architecture: of transformers.
      table: headless or not.
      presets: name -> measures.
      usual: what a config leaves out.
      words: BERT's word -> this one's.
    """
    common = {
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
        "classifier_dropout": None,
    }
    defaults = {words.get(name, name): value for name, value in common.items()} | {"max_position_embeddings": 512}
    defaults |= usual

    def get(config: Mapping[str, Any], name: str) -> Any:
        return config[words.get(name, name)]

    def named(name: str, changes: Mapping[str, Any]) -> Config | None:
        return changed({"model_type": kind, **presets[name]}, changes, {}) if name in presets else None

    def complete(config: Config, naming: str) -> Config:
        config = {**defaults, **(own_words(config, _MEASURES) if kind == "distilbert" else config)}
        known = {HEADLESS: False, "transformers": True}  # whatever the config says: it is written for many classes
        config["add_pooling_layer"] = known.get(naming, config.get("add_pooling_layer", True))
        if type(config["add_pooling_layer"]) is not bool:
            raise ValueError(f"add_pooling_layer={show(config['add_pooling_layer'])}: give true or false")
        measures = ("hidden_size", "num_attention_heads", "intermediate_size", "max_position_embeddings")
        whole(config, *(words.get(name, name) for name in measures))
        whole(config, "vocab_size", most=1 << 24)
        whole(config, words.get("num_hidden_layers", "num_hidden_layers"), most=256)
        for name in ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout"):
            if name != "classifier_dropout" or get(config, name) is not None:
                real(config, words.get(name, name), 1.0)
        if kind != "distilbert":
            whole(config, "type_vocab_size")
            real(config, "layer_norm_eps", 1.0)
        if kind == "roberta":
            pad = config["pad_token_id"]
            if type(pad) is not int or not 0 <= pad < config["vocab_size"]:
                raise ValueError(f"pad_token_id={show(pad)}: give an id below vocab_size={config['vocab_size']}")
        if "embedding" in config:
            _check_embedding(config["embedding"])
        return config

    def backbone(config: Config) -> Model:
        if kind != "distilbert":
            must_be(config, is_decoder=False, add_cross_attention=False, position_embedding_type="absolute")
        activation = get(config, "hidden_act")
        if not isinstance(activation, str) or activation not in _ACTIVATIONS:
            raise ValueError(f"activation {show(activation)} is not known; known are {', '.join(_ACTIVATIONS)}")
        dropout, after = get(config, "hidden_dropout_prob"), get(config, "classifier_dropout")
        after = dropout if after is None else after
        pooler = backbones.Pooler(
            "relu" if kind == "distilbert" else "tanh", after if kind == "roberta" else 0.0, after
        )
        measures = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
        net = backbones.bert(
            backbones.Size(*(get(config, name) for name in measures)),
            vocabulary=config["vocab_size"],
            positions=config["max_position_embeddings"],
            types=0 if kind == "distilbert" else config["type_vocab_size"],
            pad=config["pad_token_id"] if kind == "roberta" else None,
            pooler=pooler if config["add_pooling_layer"] else None,
            eps=1e-12 if kind == "distilbert" else config["layer_norm_eps"],
            dropout=dropout,
            attention_dropout=get(config, "attention_probs_dropout_prob"),
            out_dropout=0.0 if kind == "distilbert" else None,
            activation=_ACTIVATIONS[activation],
        )
        return backbones.sentences(net, **config["embedding"]) if "embedding" in config else net

    def longest(config: Config) -> int:
        return config["max_position_embeddings"] - (config["pad_token_id"] + 1 if kind == "roberta" else 0)

    def tables(config: Config) -> dict[str, Sequence[Rule]]:
        found: dict[str, Sequence[Rule]] = {HEADLESS: table(True), "transformers": table(False)}
        if kind == "roberta":
            # The classifier's first layer is the pooler of a network without one.
            found[PLAIN] = [rule for rule in found["transformers"] if not rule.pattern.startswith("classifier")]
        if "embedding" in config:  # transformers has no classifier of it
            found = {
                naming: [rule for rule in rules if "head/" not in str(rule.path)] for naming, rules in found.items()
            }
        return found

    def bare(config: Config) -> str | None:
        return None if kind == "distilbert" and config["add_pooling_layer"] else f"{name}Model"

    name = architecture.removesuffix("ForSequenceClassification")
    return Family(
        names=", ".join(presets),
        named=named,
        complete=complete,
        backbone=backbone,
        example=lambda config: sentence(min(128, longest(config))),
        tables=tables,
        usual=lambda name, config: None,
        architecture=architecture,
        bare=bare,
        depth=(words.get("num_hidden_layers", "num_hidden_layers"),),
    )


def _check_embedding(given: Any) -> None:
    fits = isinstance(given, Mapping) and set(given) == {"pooling", "normalise"} and type(given["normalise"]) is bool
    words = given["pooling"] if fits else None
    if not isinstance(words, list) or not words or not all(isinstance(word, str) for word in words):
        raise ValueError(f"embedding={show(str(given))}: give a list of poolings, and whether to normalise")


def sentence(tokens: int) -> dict[str, jax.ShapeDtypeStruct]:
    """The example of a network of text."""
    return {name: jax.ShapeDtypeStruct((1, tokens), dtype) for name, dtype in (("ids", jnp.int32), ("mask", jnp.bool_))}


_BERT_USUAL = {
    "vocab_size": 30522,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
    "is_decoder": False,
    "add_cross_attention": False,
    "position_embedding_type": "absolute",
}

BERT = _family(
    "bert",
    "BertForSequenceClassification",
    maps.bert,
    {
        "bert-base-uncased": {},
        "bert-base-cased": {"vocab_size": 28996},
        "bert-base-multilingual-cased": {"vocab_size": 119547},
        "bert-base-chinese": {"vocab_size": 21128},
        "bert-large-uncased": _LARGE,
        "bert-large-cased": {**_LARGE, "vocab_size": 28996},
        "all-MiniLM-L6-v2": {**_MINI, "num_hidden_layers": 6},
        "all-MiniLM-L12-v2": {**_MINI, "num_hidden_layers": 12},
    },
    _BERT_USUAL,
    {},
)
ROBERTA = _family(
    "roberta",
    "RobertaForSequenceClassification",
    maps.roberta,
    {
        "roberta-base": _ROBERTA,
        "roberta-large": {**_ROBERTA, **_LARGE},
        "distilroberta-base": {**_ROBERTA, "num_hidden_layers": 6},
    },
    {**_BERT_USUAL, "vocab_size": 50265, "pad_token_id": 1},
    {},
)
DISTILBERT = _family(
    "distilbert",
    "DistilBertForSequenceClassification",
    maps.distilbert,
    {"distilbert-base-uncased": {}, "distilbert-base-cased": {"vocab_size": 28996}},
    {"vocab_size": 30522, "n_layers": 6, "seq_classif_dropout": 0.2},
    _WORDS,
)
