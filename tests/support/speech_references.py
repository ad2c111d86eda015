"""Small networks of transformers that hear sounds, with random weights, and sounds for them."""

from typing import Any

import numpy as np
from torch_resnets import randomise

NAMES = {"wav2vec2": "Wav2Vec2", "hubert": "Hubert"}
# Measures of two networks; the second with an odd width, normalised before the branches as the large ones.
SIZES = {
    "base": {
        "hidden_size": 12,
        "num_attention_heads": 3,
        "num_hidden_layers": 2,
        "intermediate_size": 20,
        "conv_dim": (6, 8, 5),
        "conv_kernel": (10, 3, 2),
        "conv_stride": (5, 2, 2),
        "num_conv_pos_embeddings": 4,
        "num_conv_pos_embedding_groups": 2,
    },
    "large": {
        "hidden_size": 15,
        "num_attention_heads": 5,
        "num_hidden_layers": 1,
        "intermediate_size": 17,
        "conv_dim": (7, 9),
        "conv_kernel": (7, 3),
        "conv_stride": (4, 3),
        "conv_bias": True,
        "feat_extract_norm": "layer",
        "do_stable_layer_norm": True,
        "num_conv_pos_embeddings": 5,
        "num_conv_pos_embedding_groups": 3,
    },
}


def hf_speech(kind: str, size: str, made: str = "ForSequenceClassification", **options: Any) -> Any:
    """transformers' wav2vec2 or HuBERT as the class `made`, without what is random in training."""
    import transformers

    calm = ("hidden_dropout", "activation_dropout", "attention_dropout", "feat_proj_dropout", "final_dropout")
    common = dict.fromkeys((*calm, "layerdrop"), 0.0) | {"apply_spec_augment": False, "layer_norm_eps": 1e-3}
    common |= {"classifier_proj_size": 6, "num_labels": 3 if size == "base" else 5}
    if kind == "hubert" and size == "base":
        common |= {"num_hidden_layers": 1, "conv_dim": (6, 5), "conv_kernel": (10, 3), "conv_stride": (5, 2)}
    config = getattr(transformers, f"{NAMES[kind]}Config")(**{**SIZES[size], **common, **options})
    return randomise(getattr(transformers, f"{NAMES[kind]}{made}")(config)).eval()


def hf_whisper(made: str = "ForAudioClassification", **options: Any) -> Any:
    """transformers' Whisper as the class `made`."""
    import transformers

    common = {"d_model": 12, "encoder_layers": 2, "encoder_attention_heads": 3, "encoder_ffn_dim": 20}
    common |= {"num_mel_bins": 7, "max_source_positions": 8, "classifier_proj_size": 6, "num_labels": 3}
    common |= {"vocab_size": 11}
    common |= {"decoder_layers": 1, "decoder_attention_heads": 3, "decoder_ffn_dim": 8, "max_target_positions": 4}
    tokens = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id"), 0)
    config = transformers.WhisperConfig(**{**common, **tokens, "begin_suppress_tokens": None, **options})
    return randomise(getattr(transformers, f"Whisper{made}")(config)).eval()


def waves(samples: int, dtype: Any = np.float32) -> dict[str, np.ndarray]:
    """Three sounds of other lengths, padded with zeros."""
    mask = np.arange(samples)[None] < np.array([[samples], [2 * samples // 3], [samples // 2]])
    return {"wave": np.where(mask, np.random.default_rng(1).normal(size=mask.shape), 0).astype(dtype), "mask": mask}


def to_torch(x: dict[str, np.ndarray]) -> dict[str, Any]:
    """The same by transformers' names."""
    import torch

    return {"input_values": torch.tensor(x["wave"]), "attention_mask": torch.tensor(x["mask"].astype(np.int64))}
