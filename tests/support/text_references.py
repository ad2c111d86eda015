"""Small networks of transformers that read text, with random weights, and texts for them."""

from typing import Any

import numpy as np
from torch_resnets import randomise

NAMES = {"bert": "Bert", "roberta": "Roberta", "distilbert": "DistilBert"}
VOCABULARY = 40
PADS = {"bert": 0, "roberta": 1, "distilbert": 0}


def hf_text(
    kind: str,
    made: str = "ForSequenceClassification",
    classes: int = 3,
    width: int = 12,
    depth: int = 2,
    heads: int = 3,
    activation: str = "gelu",
    positions: int = 16,
    dropout: float = 0.0,
) -> Any:
    """transformers' BERT, RoBERTa or DistilBERT as the class `made`."""
    import transformers

    common = {"vocab_size": VOCABULARY, "max_position_embeddings": positions, "num_labels": classes}
    if kind == "distilbert":
        options = {"dim": width, "n_layers": depth, "n_heads": heads, "hidden_dim": 2 * width + 1}
        options |= {"activation": activation, "dropout": dropout, "attention_dropout": dropout}
        options |= {"seq_classif_dropout": dropout}
    else:
        options = {"hidden_size": width, "num_hidden_layers": depth, "num_attention_heads": heads}
        options |= {"intermediate_size": 2 * width + 1, "hidden_act": activation, "layer_norm_eps": 1e-3}
        options |= {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
        options |= {"type_vocab_size": 2 if kind == "bert" else 1}
    config = getattr(transformers, f"{NAMES[kind]}Config")(**common, **options)
    return randomise(getattr(transformers, f"{NAMES[kind]}{made}")(config)).eval()


def texts(kind: str, tokens: int = 7) -> dict[str, np.ndarray]:
    """Ids of three texts of other lengths, padded to `tokens`; BERT's are pairs."""
    rng = np.random.default_rng(1)
    mask = np.arange(tokens)[None] < np.array([[tokens], [tokens // 2], [1]])
    ids = np.where(mask, rng.integers(2, VOCABULARY, mask.shape), PADS[kind]).astype(np.int32)
    found = {"ids": ids, "mask": mask}
    if kind == "bert":
        found["types"] = rng.integers(0, 2, mask.shape).astype(np.int32)
    return found


def to_torch(x: dict[str, np.ndarray]) -> dict[str, Any]:
    """The same by transformers' names."""
    import torch

    names = {"ids": "input_ids", "mask": "attention_mask", "types": "token_type_ids"}
    names |= {"segments": "token_type_ids", "places": "position_ids"}
    return {names[name]: torch.tensor(np.asarray(value, np.int64)) for name, value in x.items()}
