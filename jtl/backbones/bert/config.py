"""Text encoders: BERT (and MiniLM), RoBERTa, DistilBERT."""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar

import flax.linen as nn

from jtl.backbones.bert import names as maps
from jtl.backbones.bert.network import Pooler, bert
from jtl.backbones.config import Config, Depth, Range, Rate, TransformerConfig, Vocabulary, Whole
from jtl.backbones.embedded import EmbeddingConfig, embedded, nameable
from jtl.backbones.family import HEADLESS, PLAIN, Family, by_preset, sentence, with_head
from jtl.model import Model
from jtl.nn.sizes import Size
from jtl.nn.transformer import exact_gelu
from jtl.weights.mapping.rules import Rule

_ACTIVATIONS = {"gelu": exact_gelu, "gelu_new": nn.gelu, "gelu_pytorch_tanh": nn.gelu, "relu": nn.relu}
_Activation = Literal["gelu", "gelu_new", "gelu_pytorch_tanh", "relu"]
_LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
_MINI = {"hidden_size": 384, "num_attention_heads": 12, "intermediate_size": 1536}
_ROBERTA = {"max_position_embeddings": 514, "type_vocab_size": 1, "layer_norm_eps": 1e-5}


class _EncoderConfig(Config):
    """The entries that the encoders have in common."""

    vocab_size: Vocabulary = 30522
    max_position_embeddings: Whole = 512
    add_pooling_layer: bool = True
    embedding: EmbeddingConfig | None = None

    @classmethod
    def _fill(cls, given: Mapping[str, Any], naming: str) -> Mapping[str, Any]:
        return with_head(given, naming, "add_pooling_layer")


class BertConfig(_EncoderConfig, TransformerConfig, model_type="bert"):
    """The config of a BERT."""

    hidden_act: _Activation = "gelu"
    hidden_dropout_prob: Rate = 0.1
    attention_probs_dropout_prob: Rate = 0.1
    classifier_dropout: Rate | None = None
    type_vocab_size: Whole = 2
    layer_norm_eps: Rate = 1e-12
    is_decoder: Literal[False] = False
    add_cross_attention: Literal[False] = False
    position_embedding_type: Literal["absolute"] = "absolute"


class RobertaConfig(BertConfig, model_type="roberta"):
    """The config of a RoBERTa, whose positions start at `pad_token_id + 1`."""

    vocab_size: Vocabulary = 50265
    pad_token_id: Annotated[int, Range(0, 1 << 24)] = 1

    def _check(self) -> None:
        if self.pad_token_id >= self.vocab_size:
            raise ValueError(f"pad_token_id={self.pad_token_id}: give an id below vocab_size={self.vocab_size}")


class DistilBertConfig(
    _EncoderConfig,
    model_type="distilbert",
    aliases={
        "hidden_size": "dim",
        "num_hidden_layers": "n_layers",
        "num_attention_heads": "n_heads",
    },
):
    """The config of a DistilBERT, with its own entry names."""

    dim: Whole = 768
    n_layers: Depth = 6
    n_heads: Whole = 12
    hidden_dim: Whole = 3072
    activation: _Activation = "gelu"
    dropout: Rate = 0.1
    attention_dropout: Rate = 0.1
    seq_classif_dropout: Rate | None = 0.2


def _bert(config: BertConfig) -> Model:
    dropout = config.hidden_dropout_prob
    after = dropout if config.classifier_dropout is None else config.classifier_dropout
    pad = config.pad_token_id if isinstance(config, RobertaConfig) else None
    return bert(
        config.size,
        vocabulary=config.vocab_size,
        positions=config.max_position_embeddings,
        types=config.type_vocab_size,
        pad=pad,
        pooler=Pooler("tanh", 0.0 if pad is None else after, after) if config.add_pooling_layer else None,
        eps=config.layer_norm_eps,
        dropout=dropout,
        attention_dropout=config.attention_probs_dropout_prob,
        activation=_ACTIVATIONS[config.hidden_act],
    )


def _distilbert(config: DistilBertConfig) -> Model:
    after = config.dropout if config.seq_classif_dropout is None else config.seq_classif_dropout
    return bert(
        Size(config.dim, config.n_layers, config.n_heads, config.hidden_dim),
        vocabulary=config.vocab_size,
        positions=config.max_position_embeddings,
        types=0,
        pooler=Pooler("relu", 0.0, after) if config.add_pooling_layer else None,
        eps=1e-12,
        dropout=config.dropout,
        attention_dropout=config.attention_dropout,
        out_dropout=0.0,
        activation=_ACTIVATIONS[config.activation],
    )


def _example(config: _EncoderConfig) -> Any:
    before = config.pad_token_id + 1 if isinstance(config, RobertaConfig) else 0
    return sentence(min(128, config.max_position_embeddings - before))


C = TypeVar("C", bound=_EncoderConfig)


def _family(
    config: type[C],
    architecture: str,
    backbone: Callable[[C], Model],
    table: Callable[[bool], list[Rule]],
    depth: str,
    presets: Mapping[str, Mapping[str, Any]],
) -> Family[C]:
    """One of the three; `table(headless)` makes its name table, and `depth` is the entry with the number of blocks."""

    def tables(config: C) -> dict[str, Sequence[Rule]]:
        found: dict[str, Sequence[Rule]] = {HEADLESS: table(True), "transformers": table(False)}
        if isinstance(config, RobertaConfig):
            # The classifier's first layer serves as the pooler of a network without a classifier.
            found[PLAIN] = [rule for rule in found["transformers"] if not rule.pattern.startswith("classifier")]
        return nameable(found, config.embedding)

    def bare(config: C) -> str | None:
        return None if isinstance(config, DistilBertConfig) and config.add_pooling_layer else f"{name}Model"

    name = architecture.removesuffix("ForSequenceClassification")
    return Family(
        config=config,
        names=", ".join(presets),
        named=by_preset(config.model_type, presets),
        backbone=lambda config: embedded(backbone(config), config.embedding),
        example=_example,
        tables=tables,
        architecture=architecture,
        bare=bare,
        depth=(depth,),
    )


FAMILIES = (
    _family(
        BertConfig,
        "BertForSequenceClassification",
        _bert,
        maps.bert,
        "num_hidden_layers",
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
    ),
    _family(
        RobertaConfig,
        "RobertaForSequenceClassification",
        _bert,
        maps.roberta,
        "num_hidden_layers",
        {
            "roberta-base": _ROBERTA,
            "roberta-large": {**_ROBERTA, **_LARGE},
            "distilroberta-base": {**_ROBERTA, "num_hidden_layers": 6},
        },
    ),
    _family(
        DistilBertConfig,
        "DistilBertForSequenceClassification",
        _distilbert,
        maps.distilbert,
        "n_layers",
        {"distilbert-base-uncased": {}, "distilbert-base-cased": {"vocab_size": 28996}},
    ),
)
