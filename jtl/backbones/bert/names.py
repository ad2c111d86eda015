r"""Names of BERT, RoBERTa and DistilBERT in transformers, with or without the model's prefix.

The first BERTs call a normalisation's scale `gamma` and its bias `beta`. A head for masked words (`cls.*`, `lm_head.*`,
`vocab_*`) has no place in a classifier: skip it with `unused=`.
"""

from collections.abc import Mapping

from jtl.weights.mapping.layers import dense
from jtl.weights.mapping.rules import Rule

_BERT = {
    r"attention\.self\.(query|key|value)": r"attention/\2",
    r"attention\.output\.dense": "attention/out",
    r"attention\.output\.LayerNorm": "norm1",
    r"intermediate\.dense": "mlp/up",
    r"output\.dense": "mlp/down",
    r"output\.LayerNorm": "norm2",
}
_DISTILBERT = {
    r"attention\.q_lin": "attention/query",
    r"attention\.k_lin": "attention/key",
    r"attention\.v_lin": "attention/value",
    r"attention\.out_lin": "attention/out",
    r"sa_layer_norm": "norm1",
    r"ffn\.lin1": "mlp/up",
    r"ffn\.lin2": "mlp/down",
    r"output_layer_norm": "norm2",
}


def bert(headless: bool) -> list[Rule]:
    """Rules for BertModel and BertForSequenceClassification; `headless` leaves out the pooler too."""
    top = r"(?:bert\.|)"
    head = [*dense(rf"{top}pooler\.dense", "backbone/pooler"), *dense("classifier", "head/out")]
    rules = [*_embeddings(top), *_types(top), *_blocks(rf"{top}encoder\.layer", _BERT)]
    return rules if headless else [*rules, *head]


def roberta(headless: bool) -> list[Rule]:
    """Rules for RobertaModel, whose pooler is the first layer of the head in RobertaForSequenceClassification."""
    top = r"(?:roberta\.|)"
    head = [
        *dense(r"classifier\.dense", "backbone/pooler"),
        *dense(rf"{top}pooler\.dense", "backbone/pooler"),
        *dense(r"classifier\.out_proj", "head/out"),
    ]
    rules = [*_embeddings(top), *_types(top), *_blocks(rf"{top}encoder\.layer", _BERT)]
    return rules if headless else [*rules, *head]


def distilbert(headless: bool) -> list[Rule]:
    """Rules for DistilBertModel, which has no pooler, and DistilBertForSequenceClassification."""
    top = r"(?:distilbert\.|)"
    head = [*dense(r"pre_classifier", "backbone/pooler"), *dense("classifier", "head/out")]
    rules = [*_embeddings(top), *_blocks(rf"{top}transformer\.layer", _DISTILBERT)]
    return rules if headless else [*rules, *head]


def _embeddings(top: str) -> list[Rule]:
    return [
        Rule(rf"{top}embeddings\.word_embeddings\.weight", "backbone/words/embedding"),
        Rule(rf"{top}embeddings\.position_embeddings\.weight", "backbone/positions/embedding"),
        Rule(rf"{top}embeddings\.position_ids", None),  # 0, 1, 2, ...
        *_norm(rf"{top}embeddings\.LayerNorm", "backbone/norm"),
    ]


def _types(top: str) -> list[Rule]:
    return [Rule(rf"{top}embeddings\.token_type_embeddings\.weight", "backbone/types/embedding")]


def _blocks(layers: str, parts: Mapping[str, str]) -> list[Rule]:
    rules = []
    for name, path in parts.items():
        rule = _norm if path.startswith("norm") else dense
        rules += rule(rf"{layers}\.(\d+)\.{name}", f"backbone/block{{1+1}}/{path}")
    return rules


def _norm(name: str, path: str) -> list[Rule]:
    return [Rule(rf"{name}\.(?:weight|gamma)", f"{path}/scale"), Rule(rf"{name}\.(?:bias|beta)", f"{path}/bias")]
